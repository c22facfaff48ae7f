# SPDX-License-Identifier: Apache-2.0
"""Data of Fig. 3: the predictions of a model on a few images, and the patches that it merged."""

from dataclasses import dataclass

import numpy as np
import torch

from raycomp.context.sweep_context import SweepContext
from raycomp.data.corruptions import VARIANTS
from raycomp.data.evalset import CLEAN
from raycomp.data.resize import at_least
from raycomp.files import fetched, written
from raycomp.models.segmenter import Segmenter
from raycomp.storage import AnyPath

_CORRUPTED = (("fog", 3), ("gaussian_noise", 3))


@dataclass(frozen=True)
class Scene:
    """One window of an evaluation image."""

    title: str
    image: np.ndarray
    """HxWx3 uint8."""
    label: np.ndarray
    """HxW uint8."""


def scenes(context: SweepContext) -> list[Scene]:
    """Return a clean image and two corrupted ones, cropped to the top left window."""
    data, window = context.evalset, context.window
    images, labels = data.images.views(), data.labels.views()
    variants = {"clean": CLEAN}
    for kind, severity in _CORRUPTED:
        variants[f"{kind.replace('_', ' ')} {severity}"] = VARIANTS.index((kind, severity))
    result = []
    for title, variant in variants.items():
        index = int(np.flatnonzero((data.variants == variant) & (data.rank == 0))[0])
        image, label = at_least((images[index], labels[data.label_of[index]][..., 0]), window)
        result.append(Scene(title, image[: window[0], : window[1]], label[: window[0], : window[1]]))
    return result


@dataclass(frozen=True)
class Pictures:
    """A model's predictions and merged patches on all scenes."""

    predictions: np.ndarray
    """(scenes, H, W) uint8."""
    sources: np.ndarray
    """(scenes, h, w) int32: index of the token that each patch is merged into."""

    def save(self, path: AnyPath) -> None:
        """Write both arrays atomically."""
        with written(path) as temporary:
            np.savez_compressed(temporary, predictions=self.predictions, sources=self.sources)

    @classmethod
    def load(cls, path: AnyPath) -> "Pictures":
        """Read a file written by `save`."""
        with fetched(path) as local, np.load(local) as arrays:
            return cls(arrays["predictions"], arrays["sources"])


def pictures(model: Segmenter, context: SweepContext, device: torch.device) -> Pictures:
    """Return the predictions and merged patches of a model on all scenes."""
    dtype = getattr(torch, context.config.evaluation.dtype)
    model = model.to(device, dtype)
    predictions, sources = [], []
    with torch.inference_mode():
        for scene in scenes(context):
            x = context.normalised(scene.image[None].copy(), device, dtype)
            predictions.append(model(x)[0].argmax(0).to(torch.uint8).cpu().numpy())
            grid = context.shape.grid((x.shape[-2], x.shape[-1]))
            _, tokens = model.encoder(x)
            index = (
                torch.arange(grid[0] * grid[1])
                if tokens is None
                else tokens.source[0].cpu() - context.shape.final_special
            )
            sources.append(index.view(grid).to(torch.int32).numpy())
    return Pictures(np.stack(predictions), np.stack(sources))
