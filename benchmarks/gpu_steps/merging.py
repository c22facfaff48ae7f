# SPDX-License-Identifier: Apache-2.0
"""The merge step, and a block that merges, against the published algorithm written out straight."""

from typing import Any

import torch

import merge_step
from gpu_steps.notes import Notes, Setting
from raycomp.devices import prepare_device


def run(setting: Setting, notes: Notes) -> None:
    prepare_device(setting.device)
    found: dict[str, Any] = {}
    for dtype in (torch.float32,) if setting.name == "cpu" else (torch.float32, torch.bfloat16):
        for ratio in (95 / 1024, 0.5):
            for batch in (1, setting.batch):
                times = merge_step.measured(setting.design, ratio, batch, setting.device, dtype)
                found[f"{str(dtype).removeprefix('torch.')}, batch {batch}, {ratio:.0%} merge"] = {
                    "step_gained": times["straight step"] / times["step"],
                    "block_gained": times["straight"] / times["block"],
                    "against_dense_block": times["dense"] / times["block"],
                    "step_ms": 1e3 * times["step"],
                    "block_ms": 1e3 * times["block"],
                }
                notes.put(merging=found)
