# SPDX-License-Identifier: Apache-2.0
"""DeiT-B at 512 px: what share of the FLOPs saved becomes speed, how many kernels a pass launches, and memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gpu_steps.notes import Notes, Setting, random_images
from raycomp.compress.apply import remerge
from raycomp.devices import prepare_device
from raycomp.evaluate.graphs import graphed
from raycomp.evaluate.labels import most_likely
from raycomp.evaluate.latency import median_seconds
from raycomp.flops import gflops
from raycomp.models.pixels import Bilinear
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.results.query import uniform_baselines
from raycomp.search.baselines import matched_baselines
from raycomp.shape import ModelShape

SPEEDUPS = (1.4, 2.5, 3.7)


def recipes(shape: ModelShape) -> dict[str, Recipe]:
    """Dense, and prune+ToMe by the paper's compression levels: heads cut narrower, and heads 64 wide but fewer."""
    head = shape.head_dim
    narrow = BlockWidths(heads=max(1, shape.heads // 3), qk=head, v=head, mlp=shape.mlp // 6)
    least = Recipe(embed=shape.width // 2, blocks=(narrow,) * shape.depth)
    found = {"dense": dense(shape)}
    for kind, low in (("narrow heads", None), ("whole heads", least)):
        for one in matched_baselines(shape, shape.image, tuple(1 / s for s in SPEEDUPS), narrowest=low):
            if one.kind == uniform_baselines()[-1]:
                found[f"prune+ToMe {1 / one.share:.1f}x, {kind}"] = one.recipe
    return found


def build(shape: ModelShape, recipe: Recipe, setting: Setting) -> Segmenter:
    """A random model of a recipe."""
    torch.manual_seed(0)
    model = Segmenter(shape, recipe)
    remerge(model, recipe)
    return model.to(setting.device, setting.dtype).eval()


@torch.inference_mode()
def run(setting: Setting, notes: Notes) -> None:
    prepare_device(setting.device)
    shape, found = setting.design, dict[str, Any]()
    built = {name: (recipe, build(shape, recipe, setting)) for name, recipe in recipes(shape).items()}
    whole = gflops(shape, dense(shape))
    for batch in (1, setting.batch):
        images = random_images(setting, batch, shape)
        ways: dict[tuple[str, str], Callable[[], Any]] = {}
        for name, (_, model) in built.items():
            ways[name, "eager"] = partial(labels, model.patch_scores, images, shape)
            if setting.name == "cuda":
                ways[name, "graph"] = partial(labels, graphed(model.patch_scores, images), images, shape)
        times = median_seconds(ways, setting.device, 3 if setting.small else 15, 3)
        for (name, way), seconds in times.items():
            saved, gained = whole / gflops(shape, built[name][0]), times["dense", way] / seconds
            case = found.setdefault(f"batch {batch}", {}).setdefault(name, {"saved": saved})
            case[way] = {"ms": 1e3 * seconds, "gained": gained, "ratio": gained / saved}
        notes.put(models=found)
        for name, (_, model) in built.items():
            found[f"batch {batch}"][name] |= _counted(setting, partial(labels, model.patch_scores, images, shape))
        notes.put(models=found)


def labels(scores: Callable[[Tensor], Tensor], images: Tensor, shape: ModelShape) -> Tensor:
    """What a trial does with a batch of windows."""
    return most_likely(scores(images), Bilinear(shape.patch), shape.image)


def _counted(setting: Setting, once: Callable[[], Any]) -> dict[str, Any]:
    """Kernels that a pass launches, how long they run, and peak memory."""
    if setting.name == "cpu":
        return {}
    torch.cuda.reset_peak_memory_stats()
    once()
    peak = torch.cuda.max_memory_allocated() / 2**30
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        once()
        torch.cuda.synchronize()
    events = [e for e in profiled.key_averages() if e.device_time_total and not e.key.startswith("Mem")]
    longest = sorted(events, key=lambda e: -e.self_device_time_total)[:14]
    return {
        "kernels": sum(e.count for e in events),
        "kernels_ms": sum(e.self_device_time_total for e in events) / 1e3,
        "peak_gib": peak,
        "longest_ms": {e.key[:60]: round(e.self_device_time_total / 1e3, 3) for e in longest},
    }
