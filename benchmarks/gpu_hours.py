# SPDX-License-Identifier: Apache-2.0
"""Estimate the GPU-hours of the whole path of the paper's spaces, from what `benchmarks/gpu.py` measured.

    python benchmarks/gpu_hours.py [--windows-ade20k 2] [--windows-cityscapes 8]

A training step takes as long as one of ViT-Ti, whose kernels are as many and nearly all waiting for their launch, plus
the dense model's forward passes that it is worth: three for each image that is trained on, one for a teacher. Forward
passes of DeiT-B were measured at 512 px, and grow with the GFLOPs. A window of a search is counted as dense.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from raycomp import config as configs
from raycomp.config import SweepConfig
from raycomp.flops import gflops
from raycomp.recipe import dense
from raycomp.rehearsal.estimate import Rates, stages
from raycomp.search.plan import TRAINING_PASSES
from raycomp.settings.amounts import Amount
from raycomp.shape import deit_base_distilled

_FIGURES = Path("docs/results/gpu.json")
_TEACHER = 1  # forward passes of an image by the teacher
_BATCH, _TRIAL_WINDOWS = 32, 1140


def main(
    windows_ade20k: Annotated[int, typer.Option(help="Windows of an image; the samples have 2.")] = 2,
    windows_cityscapes: Annotated[int, typer.Option()] = 8,
) -> None:
    steps = json.loads(_FIGURES.read_text())["steps"]
    card = steps["machine"]["card"]
    for space, windows in {"ade20k_deit_base": windows_ade20k, "cityscapes_deit_base": windows_cityscapes}.items():
        config = configs.load(Path("search_spaces") / f"{space}.yaml")
        print(f"\n{space}, hours of one {card}")
        for stage in stages(config, _rates(config, steps, windows)):
            print(f"  {stage.name:8} {stage.amount:62} {stage.hours:8.2f}")


def _rates(config: SweepConfig, steps: dict[str, Any], windows: int) -> Rates:
    """Return seconds per step and window on the card that was measured."""
    shape = config.model.shape
    assert shape is not None
    measured = deit_base_distilled((512, 512), 150)
    larger = gflops(shape, dense(shape)) / gflops(measured, dense(measured))
    forward = larger * steps["models"]["models"]["batch 32"]["dense"]["eager"]["ms"] / _BATCH / 1e3
    window = larger * steps["trial"]["trials"]["dense"]["then_s"] / _TRIAL_WINDOWS
    small = {name: 1 / value for name, value in steps["training"]["steps_per_second"].items()}
    train, elastic, refine = config.train, config.elastic, config.refine.train
    share = elastic.least
    mean = (1 - share) / math.log(1 / share)  # of costs drawn log-uniformly
    trained = 1 + share + elastic.recipes * mean
    budget = config.search.budget
    assert not isinstance(budget, Amount)
    return Rates(
        train=small["dense bfloat16"] + TRAINING_PASSES * train.batch * forward,
        elastic=small["elastic float32"] + (TRAINING_PASSES * trained + _TEACHER) * elastic.train.batch * forward,
        policy=None,
        refine=small["dense bfloat16"] + (TRAINING_PASSES * budget + 1) * refine.batch * forward,
        window=window,
        windows=windows,
    )


if __name__ == "__main__":
    typer.run(main)
