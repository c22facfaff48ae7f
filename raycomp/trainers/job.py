# SPDX-License-Identifier: Apache-2.0
"""Training and measurement on held-out images, shared by all kinds of network.

Legend: B batch, H and W the model's input size, K classes.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from raycomp.config import SweepConfig
from raycomp.data.resize import at_least, centre, resized_image
from raycomp.data.samples import NORMALIZATIONS, Samples
from raycomp.evaluate.confusions import confusion
from raycomp.evaluate.labels import labels_at
from raycomp.evaluate.miou import class_iou
from raycomp.evaluate.sliding import normalised, sliding_logits
from raycomp.losses import Loss, pixel_loss
from raycomp.models.segmenter import Segmenter
from raycomp.settings.training import TrainConfig
from raycomp.shape import ModelShape
from raycomp.training_loop import Trained, TrainingProgress, train

Network = TypeVar("Network", bound=nn.Module, covariant=True)
Progress = Callable[[], AbstractContextManager[Callable[[TrainingProgress], None]]]
"""A context manager that displays a training; it yields the function to call after each step."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """The settings, data and device of a training."""

    sweep: SweepConfig
    settings: TrainConfig
    """Settings of this kind of network."""
    shape: ModelShape
    samples: Samples
    held_out: Samples
    device: torch.device
    state: Path
    """File an interrupted training resumes from."""
    progress: Progress
    say: Callable[[str], None]

    @property
    def count(self) -> int:
        """Number of held-out images to measure."""
        return min(len(self.held_out), self.settings.eval_images)

    def fit(self, model: Trained, loss: Loss = pixel_loss, identity: str = "") -> tuple[Trained, float]:
        """Train or resume; return the model to keep and the seconds of all its steps. See `training_loop.train`."""
        seconds, scale = 0.0, self.sweep.data.scale
        with self.progress() as report:

            def on_step(at: TrainingProgress) -> None:
                nonlocal seconds
                seconds = at.seconds
                report(at)

            trained = train(
                model, self.shape, self.samples, self.settings, self.device, on_step, loss, self.state, identity, scale
            )
        return trained, seconds

    def class_iou(self, model: Segmenter) -> np.ndarray:
        """Measure the IoU of each class (K,) on the held-out images, at their original size."""
        pixels, classes = NORMALIZATIONS[self.shape.normalization], self.shape.classes
        window, stride = self.sweep.data.window_for(self.shape), self.sweep.data.stride_for(self.shape)
        matrix = torch.zeros(classes, classes, dtype=torch.int64)
        with torch.inference_mode():
            for index in range(self.count):
                image, label = self.held_out[index]
                size = (label.shape[0], label.shape[1])
                image = resized_image(image, self.sweep.data.scale.of(size))
                x = normalised(torch.from_numpy(image)[None].to(self.device), pixels.mean, pixels.std, torch.float32)
                logits = sliding_logits(model, x, window, stride)
                matrix += confusion(torch.from_numpy(label)[None], labels_at(logits, size).cpu(), classes)[0]
        return class_iou(matrix.numpy())

    def crops(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the centre crop of each held-out image, normalised (1, 3, H, W), and its labels (1, H, W)."""
        pixels, data = NORMALIZATIONS[self.shape.normalization], self.sweep.data
        window = data.window_for(self.shape)
        for index in range(self.count):
            image, label = centre(at_least(self.held_out[index], window, data.scale), window)
            x = normalised(torch.from_numpy(image)[None], pixels.mean, pixels.std, torch.float32)
            yield x.to(self.device), torch.from_numpy(label)[None].to(self.device)


@dataclass(frozen=True)
class TrainedNetwork(Generic[Network]):
    """A trained network and the contents of its card."""

    network: Network
    title: str
    fields: dict[str, str]
    table: str
    """Results as a Markdown table."""
    summary: str
    seconds: float
    """Training time."""
