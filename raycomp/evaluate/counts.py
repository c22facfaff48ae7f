# SPDX-License-Identifier: Apache-2.0
"""Count a model's predictions on evaluation images, variant by variant.

Legend: K classes, V variants (the clean images first, then 80 corrupted ones).
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Self

import numpy as np
import torch

from raycomp.data.corruptions import VARIANTS
from raycomp.data.evalset import CLEAN, EvalSet, Stack
from raycomp.evaluate.confusions import Confusions
from raycomp.evaluate.graphs import Replayed
from raycomp.evaluate.per_image import PerImage
from raycomp.evaluate.resident import resident
from raycomp.evaluate.token_counts import recorded
from raycomp.evaluate.windows import View, labelled
from raycomp.models.segmenter import Segmenter
from raycomp.shape import Size


class Counts:
    """Counts of a model's predictions on the evaluation images, accumulated part by part on the model's device."""

    def __init__(
        self,
        run: Callable[[torch.Tensor], torch.Tensor],
        classes: int,
        device: torch.device,
        data: EvalSet,
        chosen: np.ndarray,
        truth: Stack,
        view: View,
        batch: int,
    ) -> None:
        """Copy the chosen images to the device, with their labels in `truth`."""
        self._run, self._data, self._view, self._device, self._batch = run, data, view, device, batch
        self.images = resident(data.images, device, chosen.tolist())
        self._truth = resident(truth, device, data.label_of[chosen].tolist())
        self._confusions = Confusions(1 + len(VARIANTS), classes, device)
        self._adaptive: Segmenter | None = None
        self._order: list[int] = []
        self.tokens: list[list[int]] = []
        """For adaptive merging: tokens after each block, for every pass on a clean image."""

    @classmethod
    def of(cls, model: Segmenter, data: EvalSet, chosen: np.ndarray, truth: Stack, view: View, batch: int) -> Self:
        """Count the predictions of a model."""
        adaptive = model.recipe.adaptive
        run = model.patch_scores if adaptive else Replayed(model.patch_scores)
        batch = 1 if adaptive else batch  # in a batch, the least mergeable window would limit all
        counts = cls(run, model.shape.classes, model.device, data, chosen, truth, view, batch)
        counts._adaptive = model if adaptive else None
        return counts

    def add(self, part: np.ndarray, report: Callable[[int, int], None] = lambda *_: None) -> np.ndarray:
        """Label more images, and return the confusions (V, K, K) of all images so far."""
        variants, by_size = self._data.variants, defaultdict[tuple[Size, Size], list[int]](list)
        for index in part.tolist():
            by_size[self._sizes(index)].append(index)
        order = [index for group in by_size.values() for index in group]
        rows = torch.from_numpy(variants[order] + 1).to(self._device)
        images = [partial(self.images.__getitem__, index) for index in order]
        sizes = [self._sizes(index) for index in order]
        with recorded(self._adaptive) if self._adaptive is not None else nullcontext() as passes:
            for some, predicted in labelled(self._run, images, sizes, self._view, self._batch):
                truth = [self._truth[int(self._data.label_of[index])][..., 0] for index in order[some]]
                self._confusions.add(torch.stack(truth), predicted, rows[some])
                report(some.stop, len(order))
        if passes is not None:  # one per window
            clean = (variants[index] == CLEAN for index in order for _ in self._view.places(self._sizes(index)[0]))
            self.tokens += [tokens for tokens, is_clean in zip(passes, clean, strict=True) if is_clean]
        self._order += order
        return self._confusions.table()

    def _sizes(self, index: int) -> tuple[Size, Size]:
        """Return the size of an image and of its label."""
        return self.images.shape(index)[:2], self._truth.shape(int(self._data.label_of[index]))[:2]

    def per_image(self) -> PerImage:
        """Return hits and unions of each image by class."""
        hits, union = self._confusions.by_class()
        return PerImage(hits, union, self._data.variants[self._order], self._data.label_of[self._order])
