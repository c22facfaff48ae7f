# SPDX-License-Identifier: Apache-2.0
"""Run a model on evaluation images in full batches of equal windows, whatever the sizes of the images.

Legend: B windows in a batch, n windows in an image, K classes, h w grid of patches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch
from torch import Tensor

from raycomp.data.samples import Mean
from raycomp.evaluate.labels import Place, labels_of_windows
from raycomp.evaluate.sliding import enlarged, normalised, places
from raycomp.models.pixels import Form
from raycomp.shape import Size, enlarged_to


@dataclass(frozen=True)
class View:
    """How a model processes images: enlarged until a window fits, then window by window."""

    pixels: Mean
    window: Size
    """Height and width, pixels."""
    stride: int
    form: Form
    """How the model's scores become logits."""
    dtype: torch.dtype
    """Data type of the model's input."""

    def input_size(self, size: Size) -> Size:
        """Return the size that an image is enlarged to."""
        return enlarged_to(size, self.window)

    def places(self, size: Size) -> tuple[Place, ...]:
        """Return the places of the windows in the enlarged image."""
        return places(self.input_size(size), self.window, self.stride)

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images (B, H, W, 3) uint8 to model input (B, 3, H, W)."""
        return normalised(images, self.pixels.mean, self.pixels.std, self.dtype)

    def windows(self, image: Tensor) -> Iterator[Tensor]:
        """Yield the windows of an image (H, W, 3) uint8: raw (height, width, 3), or as model input if enlarged."""
        size = (image.shape[0], image.shape[1])
        if self.input_size(size) == size:
            yield from (image[place] for place in self.places(size))
        else:
            [x] = enlarged(self.normalised(image[None]), self.window)  # (3, H, W)
            yield from (x[(..., *place)] for place in self.places(size))

    def input(self, windows: Sequence[Tensor]) -> Tensor:
        """Batch windows that `windows` yielded, from any images, as model input (B, 3, height, width)."""
        parts = []
        for raw, some in groupby(windows, lambda window: window.dtype == torch.uint8):
            part = torch.stack(list(some))
            parts.append(self.normalised(part) if raw else part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def labelled(
    run: Callable[[Tensor], Tensor],
    images: Sequence[Callable[[], Tensor]],
    sizes: Sequence[tuple[Size, Size]],
    view: View,
    batch: int,
) -> Iterator[tuple[slice, Tensor]]:
    """Label images in order, adjacent images of equal size together.

    Args:
        run: maps model input (B, 3, height, width) to scores of the view's form; it may reuse its output buffer.
        images: each returns its pixels (H, W, 3) uint8.
        sizes: size of each image, and of its labels.
        batch: number of windows in a batch.

    Yields:
        The indices of consecutive images, and their labels (images, height, width), uint8 or int64.
    """
    windows = (window for image in images for window in view.windows(image()))
    left: Tensor | None = None  # scores of an image whose other windows are still to come
    done = 0
    while some := list(islice(windows, batch)):
        scores = run(view.input(some))
        scores = scores if left is None else torch.cat([left, scores])
        for (size, label_size), group in groupby(_finished(sizes, done, view, len(scores))):
            at, count = view.places(size), len(list(group))
            complete, scores = scores.split([count * len(at), len(scores) - count * len(at)])
            by_image = complete.unflatten(0, (count, len(at)))
            labels = labels_of_windows(by_image, view.form, view.window, at, view.input_size(size), label_size)
            yield slice(done, done + count), labels
            done += count
        left = scores.clone() if len(scores) else None


def _finished(sizes: Sequence[tuple[Size, Size]], first: int, view: View, windows: int) -> Iterator[tuple[Size, Size]]:
    """Yield the sizes of the images from `first` on whose windows are all among the given number."""
    for index in range(first, len(sizes)):
        windows -= len(view.places(sizes[index][0]))
        if windows < 0:
            return
        yield sizes[index]
