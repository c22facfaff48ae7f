# SPDX-License-Identifier: Apache-2.0
"""torch.compile of a finished model, dense and compressed: how long it takes to compile, and to run."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gpu_steps.models import build, labels, recipes
from gpu_steps.notes import Notes, Setting, random_images
from raycomp.evaluate.graphs import graphed
from raycomp.evaluate.latency import median_seconds


@torch.inference_mode()
def run(setting: Setting, notes: Notes) -> None:
    if setting.name == "cpu":  # compiling for a CPU takes minutes, and tests/deploy/test_compile.py does it
        return
    shape, images, found = setting.design, random_images(setting, setting.batch, setting.design), dict[str, Any]()
    every = recipes(shape)
    for name in ("dense", list(every)[-1]):
        model = build(shape, every[name], setting)
        began = time.perf_counter()
        compiled = torch.compile(model.patch_scores, dynamic=False)
        compiled(images)
        took = time.perf_counter() - began
        ways: dict[str, Callable[[], Any]] = {
            "graph": partial(labels, graphed(model.patch_scores, images), images, shape),
            "compiled": partial(labels, compiled, images, shape),
        }
        times = median_seconds(ways, setting.device, 15, 3)
        found[name] = {way: 1e3 * seconds for way, seconds in times.items()} | {"compilation_s": took}
        notes.put(compiled=found)
