"""What Fig. 3 shows of a model: its predictions on a few images, and which patches it merged."""

from dataclasses import dataclass

import numpy as np
import torch

from raycomp.context.sweep_context import SweepContext
from raycomp.data.corruptions import VARIANTS
from raycomp.data.evalset import CLEAN
from raycomp.data.resize import at_least
from raycomp.data.samples import NORMALIZATIONS
from raycomp.evaluate.miou import normalised
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
    """A clean image and two corrupted ones, cut to the top left window."""
    data, window = context.evalset, context.config.data.window_for(context.shape)
    images, labels = data.images.views(), data.labels.views()
    wanted = [
        ("clean", CLEAN),
        *(
            (f"{kind.replace('_', ' ')} {condition}", VARIANTS.index((kind, condition)))
            for kind, condition in _CORRUPTED
        ),
    ]
    found = []
    for title, variant in wanted:
        index = int(np.flatnonzero((data.variants == variant) & (data.rank == 0))[0])
        image, label = at_least((images[index], labels[data.label_of[index]][..., 0]), window)
        found.append(Scene(title, image[: window[0], : window[1]], label[: window[0], : window[1]]))
    return found


@dataclass(frozen=True)
class Pictures:
    """A model's part of Fig. 3."""

    predictions: np.ndarray
    """(scenes, H, W) uint8."""
    sources: np.ndarray
    """(scenes, h, w) int32, the token of each patch."""

    def save(self, path: AnyPath) -> None:
        """Write both arrays, whole or not at all."""
        with written(path) as temporary:
            np.savez_compressed(temporary, predictions=self.predictions, sources=self.sources)

    @classmethod
    def load(cls, path: AnyPath) -> "Pictures":
        """Read what `save` wrote."""
        with fetched(path) as local, np.load(local) as held:
            return cls(held["predictions"], held["sources"])


def pictures(model: Segmenter, context: SweepContext, device: torch.device) -> Pictures:
    """Predictions and merged patches of a model on all scenes."""
    pixels, dtype = NORMALIZATIONS[context.shape.normalization], getattr(torch, context.config.evaluation.dtype)
    model = model.to(device, dtype)
    predictions, sources = [], []
    with torch.inference_mode():
        for scene in scenes(context):
            x = normalised(torch.from_numpy(scene.image[None].copy()).to(device), pixels.mean, pixels.std, dtype)
            predictions.append(model(x)[0].argmax(0).to(torch.uint8).cpu().numpy())
            grid = context.shape.grid((x.shape[-2], x.shape[-1]))
            _, tokens = model.encoder(x)
            index = torch.arange(grid[0] * grid[1]) if tokens is None else tokens.source[0].cpu() - context.shape.prefix
            sources.append(index.view(grid).to(torch.int32).numpy())
    return Pictures(np.stack(predictions), np.stack(sources))
