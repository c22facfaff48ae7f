# SPDX-License-Identifier: Apache-2.0
"""Compare saved FLOPs with gained speed: ToMe at moderate, pruning with ToMe at aggressive compression.

    python benchmarks/merging.py [--device cuda] [--threads 2]

Prints the FLOPs reduction, the speed-up and their ratio against the dense model at batch 16 (DeiT-B: 4). Weights are
random, because time does not depend on them. Dense and compressed models take turns; the ratio is of medians.
"""

from functools import partial
from typing import Annotated

import torch
import typer

from raycomp.compress.apply import remerge
from raycomp.evaluate.latency import median_seconds
from raycomp.flops import gflops
from raycomp.match_cost import match_cost
from raycomp.memory import keep_freed_memory
from raycomp.merging import ToMe
from raycomp.merging.tome import constant_r
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.results.query import uniform_baselines
from raycomp.search.baselines import matched_baselines
from raycomp.shape import ModelShape, deit_base_distilled, vit

BATCH, MODERATE, AGGRESSIVE = 16, 2.5, 3.7
ROUNDS, WARM_UP = 5, 1


def main(
    device: Annotated[str, typer.Option()] = "cpu",
    threads: Annotated[int, typer.Option()] = 2,
    dtype: Annotated[str, typer.Option()] = "float32",
) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    micro = ModelShape(width=128, heads=4, depth=8, patch=8, image=(128, 128), classes=11, decoder_depth=1)
    published = deit_base_distilled((512, 512), 150)
    tiny, small = vit("tiny", (256, 256), 11), vit("small", (512, 512), 150)
    cases: list[tuple[str, ModelShape, Recipe, int]] = [
        ("ViT-micro 128 px, ToMe", micro, matched(micro), BATCH),
        ("ViT-micro, prune+ToMe", micro, aggressive(micro), BATCH),
        ("ViT-Ti/16 256 px, ToMe", tiny, matched(tiny), BATCH),
        ("ViT-Ti/16, prune+ToMe", tiny, aggressive(tiny), BATCH),
        ("ViT-S/16 512 px, ToMe", small, matched(small), BATCH),
        ("ViT-S/16, prune+ToMe", small, aggressive(small), BATCH),
        ("DeiT-B/16 512 px, r = 95", published, merging(published, constant_r(published, 95)), 4),
        ("DeiT-B/16, prune+ToMe", published, aggressive(published), 4),
    ]
    print(f"torch {torch.__version__}, {device}, {dtype}, {threads} thread(s), medians of {ROUNDS}")
    print(f"{'model':26}{'GFLOPs':>18}{'saved':>8}{'gained':>8}{'gained / saved':>16}")
    for name, shape, recipe, batch in cases:
        full, less = gflops(shape, dense(shape)), gflops(shape, recipe)
        gained = speed_up(shape, recipe, batch, torch.device(device), getattr(torch, dtype))
        saved = full / less
        print(f"{name:26}{full:9.2f} ->{less:6.2f}{saved:7.2f}x{gained:7.2f}x{gained / saved:16.2f}", flush=True)


def matched(shape: ModelShape) -> Recipe:
    """Return ToMe with the same r in every block, at the moderate compression."""
    target = gflops(shape, dense(shape)) / MODERATE
    merge = ToMe(ratios=(0.5,) * shape.depth)
    build = lambda strength: dense(shape).merging(merge.at(strength, shape, shape.image))  # noqa: E731
    return match_cost(build, lambda recipe: gflops(shape, recipe), target).nearest(target, 0.01)[0]


def aggressive(shape: ModelShape) -> Recipe:
    """Return the uniform prune+ToMe recipe at the aggressive compression."""
    recipes = {one.kind: one.recipe for one in matched_baselines(shape, shape.image, (1 / AGGRESSIVE,))}
    return recipes[uniform_baselines()[-1]]


def merging(shape: ModelShape, ratios: tuple[float, ...]) -> Recipe:
    return dense(shape).model_copy(update={"merge": ToMe(ratios=ratios)})


def speed_up(shape: ModelShape, recipe: Recipe, batch: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the dense time over the recipe's."""
    recipes = {"dense": dense(shape), "cut": recipe}
    models = {name: Segmenter(shape, one).to(device, dtype).eval() for name, one in recipes.items()}
    remerge(models["cut"], recipe)
    images = torch.randn(batch, 3, *shape.image, device=device, dtype=dtype)
    with torch.inference_mode():
        runs = {name: partial(model, images) for name, model in models.items()}
        times = median_seconds(runs, device, ROUNDS, WARM_UP)
    return times["dense"] / times["cut"]


if __name__ == "__main__":
    typer.run(main)
