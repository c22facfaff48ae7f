"""Trials a minute: the loop one would write first, against a sweep's worker.

    python benchmarks/throughput.py [--trials 6] [--device cuda]

The first loop reads the checkpoint, draws the images and corrupts them anew in every trial, and measures one variant
after the other in float32. Both measure the search stage of the same random recipes, taking turns, on one thread, and
must find the same accuracy. The worker measures effective rank and latency on top.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from raycomp import config as configs
from raycomp.compress.apply import compress
from raycomp.data.corruptions import VARIANTS, corrupt
from raycomp.data.open import open_split
from raycomp.data.samples import NORMALIZATIONS
from raycomp.evaluate.miou import confusion, miou
from raycomp.memory import keep_freed_memory
from raycomp.models import checkpoints
from raycomp.recipe import Recipe
from raycomp.search.base import Base, prepare_base
from raycomp.search.proposal import Proposal
from raycomp.search.space import Space
from raycomp.search.trial import run_trial

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32


def main(
    trials: Annotated[int, typer.Option()] = 6,
    device: Annotated[str, typer.Option()] = "cpu",
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    config = configs.load(ROOT / "search_spaces" / "streetscenes_vit_micro.yaml")
    base, place = prepare_base(config, print), torch.device(device)
    grid = Space(base.shape, config.space, config.data.window_for(base.shape))
    rng = np.random.default_rng(0)
    recipes = [
        grid.recipe(grid.project(grid.draw(rng, 0.2 * grid.gflops({})), 0.6 * grid.gflops({}))) for _ in range(trials)
    ]
    _worker(base, recipes[0], place)  # what a worker does once
    straight: list[dict[str, float]] = []
    ours: list[float] = []
    print(f"{'recipe':14}{'straight s':>12}{'worker s':>10}{'clean mIoU of both':>24}")
    for recipe in recipes:
        clean, parts = _straight(base, recipe, place)
        began = time.perf_counter()
        found = _worker(base, recipe, place)
        ours.append(time.perf_counter() - began)
        straight.append(parts)
        print(f"{recipe.id:14}{sum(parts.values()):12.2f}{ours[-1]:10.2f}{clean:15.6f} {found:.6f}", flush=True)
        assert abs(clean - found) < 1e-3
    each = {part: sum(one[part] for one in straight) / trials for part in straight[0]}
    mean = sum(ours) / trials
    print("straight, seconds a trial: " + ", ".join(f"{part} {seconds:.2f}" for part, seconds in each.items()))
    print(f"worker, seconds a trial: {mean:.2f}, that is {60 / mean:.0f} trials a minute and thread")
    print(f"trials a minute: {sum(each.values()) / mean:.1f}x; measuring alone: {each['measuring'] / mean:.2f}x")


def _worker(base: Base, recipe: Recipe, device: torch.device) -> float:
    row = run_trial(base, None, Proposal(0, "search", "proposed", "", recipe), Path(), device, "")
    assert row["status"] == "complete", row["error"]
    return float(row["clean_miou"])


def _straight(base: Base, recipe: Recipe, device: torch.device) -> tuple[float, dict[str, float]]:
    """Clean mIoU, and seconds of each part."""
    config, seconds = base.config, {}
    began = time.perf_counter()
    assert config.model.elastic is not None
    whole = checkpoints.load(checkpoints.locate(config.model.elastic), base.shape)
    model = compress(whole, recipe, None).eval().to(device)
    seconds["model"] = time.perf_counter() - began

    began, wanted = time.perf_counter(), config.evaluation.search
    samples = open_split(config.data, config.data.eval_split, config.evaluation.full.clean)
    scenes = [samples[index] for index in range(len(samples))]
    seconds["images"] = time.perf_counter() - began

    began, full = time.perf_counter(), config.evaluation.full.corrupted
    variants = [scenes[: wanted.clean]]
    for number, (kind, severity) in enumerate(VARIANTS):
        indices = [(number * full + offset) % len(scenes) for offset in range(wanted.corrupted)]
        seed = config.evaluation.seed * 1_000_003
        variants.append([(corrupt(scenes[i][0], kind, severity, seed + i), scenes[i][1]) for i in indices])
    seconds["corruptions"] = time.perf_counter() - began

    began, found = time.perf_counter(), []
    with torch.no_grad():
        for variant in variants:
            matrix = torch.zeros(base.shape.classes, base.shape.classes, dtype=torch.int64)
            for start in range(0, len(variant), BATCH):
                images = np.stack([image for image, _ in variant[start : start + BATCH]])
                labels = torch.from_numpy(np.stack([label for _, label in variant[start : start + BATCH]]))
                predicted = model(_normalised(images, base.shape.normalization).to(device)).argmax(1).cpu()
                matrix += confusion(labels, predicted, base.shape.classes)
            found.append(miou(matrix.numpy()))
    seconds["measuring"] = time.perf_counter() - began
    return found[0], seconds


def _normalised(images: np.ndarray, kind: str) -> torch.Tensor:
    pixels = NORMALIZATIONS[kind]
    return torch.from_numpy(((images / 255 - pixels.mean) / pixels.std).astype(np.float32)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    typer.run(main)
