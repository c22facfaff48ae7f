# SPDX-License-Identifier: Apache-2.0
"""Training steps a second of a ViT-Ti, dense and elastic, in each precision; and what an interruption costs."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_steps.models import build
from gpu_steps.notes import Notes, Setting
from raycomp.data.samples import Sample
from raycomp.losses import Loss, distilled, pixel_loss
from raycomp.recipe import Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.settings.training import AugmentConfig, TrainConfig
from raycomp.space import Space
from raycomp.training_loop import TrainingProgress, train

_WARM_UP = 10


class _Noise:
    """A few images, which loading them takes next to nothing of."""

    classes, fingerprint = tuple("abcdefghijk"), "noise"

    def __init__(self, height: int, width: int) -> None:
        rng = np.random.default_rng(0)
        self._images = rng.integers(0, 256, (16, height, width, 3), dtype=np.uint8)
        self._labels = rng.integers(0, 11, (16, height, width), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        return self._images[index], self._labels[index]


class _InterruptedError(Exception):
    pass


def run(setting: Setting, notes: Notes) -> None:
    found: dict[str, Any] = {}
    for kind, steps in (("dense", 14 if setting.small else 70), ("elastic", 14 if setting.small else 25)):
        for precision in ("float32", "tf32", "bfloat16"):
            torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
            config = _config(setting, steps, "bfloat16" if precision == "bfloat16" else "float32")
            _, rate = _trained(setting, config, _loss(setting, kind))
            found[f"{kind} {precision}"] = rate
            notes.put(steps_per_second=found)
    torch.set_float32_matmul_precision("highest")
    notes.put(resume=_resumed(setting))


def _config(setting: Setting, steps: int, precision: str) -> TrainConfig:
    plain = AugmentConfig(scale=(1.0, 1.0), photometric=False)
    workers = 1 if setting.small else 8
    return TrainConfig.model_validate(
        {"steps": steps, "batch": 2 if setting.small else 8, "optimizer": "adamw", "lr": 1e-4, "precision": precision}
        | {"augment": plain.model_dump(), "workers": workers, "decoder_dropout": 0.0}
    )


def _loss(setting: Setting, kind: str) -> Loss:
    """The loss of a dense training, or of an elastic one of four recipes a step."""
    if kind == "dense":
        return pixel_loss
    shape = setting.tiny
    space = Space(
        shape, SpaceConfig(embed=WidthRange(low=shape.width // 2), mlp=WidthRange(low=shape.width)), shape.image
    )
    teacher = build(shape, dense(shape), setting).float().requires_grad_(False)
    always = [dense(shape), space.recipe(space.smallest)]

    def draw(seed: int) -> list[Recipe]:
        rng = np.random.default_rng(seed)
        return always + [space.recipe(space.draw(rng, 0.3 * space.gflops({}))) for _ in range(2)]

    return distilled(teacher, 1.0, draw)


def _trained(
    setting: Setting, config: TrainConfig, loss: Loss, state: Path | None = None, stop: int | None = None
) -> tuple[dict[str, torch.Tensor], float]:
    """Weights, and steps a second after the first few."""
    shape = setting.tiny
    model = build(shape, dense(shape), setting).float()
    times: list[float] = []

    def report(standing: TrainingProgress) -> None:
        times.append(time.perf_counter())
        if standing.step == stop:
            raise _InterruptedError

    with suppress(_InterruptedError):
        model = train(model, shape, _Noise(*shape.image), config, setting.device, report, loss, state)
    rate = (len(times) - 1 - _WARM_UP) / (times[-1] - times[_WARM_UP]) if len(times) > _WARM_UP + 1 else float("nan")
    return {name: tensor.cpu() for name, tensor in model.state_dict().items()}, rate


def _resumed(setting: Setting) -> dict[str, float]:
    """One training in one go, and one that is stopped after the saved state and goes on."""
    config = _config(setting, 215, "float32")
    whole, _ = _trained(setting, config, pixel_loss)
    state = setting.folder / "training.pt"
    _, before = _trained(setting, config, pixel_loss, state, stop=202)
    resumed, after = _trained(setting, config, pixel_loss, state)
    state.unlink()
    largest = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
    return {"largest_difference_of_a_weight": largest, "steps_per_second": before, "after_resuming": after}
