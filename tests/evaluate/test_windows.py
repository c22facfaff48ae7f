# SPDX-License-Identifier: Apache-2.0
"""Batches of windows give each image the labels that it gets alone, window by window."""

import numpy as np
import pytest
import torch

from raycomp.data.samples import NORMALIZATIONS
from raycomp.evaluate.labels import labels_at
from raycomp.evaluate.sliding import normalised, sliding_logits
from raycomp.evaluate.windows import View, labelled
from raycomp.models.pixels import Bilinear, upsampled

WINDOW, PATCH = (32, 24), 8
SIZES = [
    ((32, 24), (32, 24)),
    ((32, 24), (32, 24)),
    ((32, 24), (50, 41)),  # labelled larger
    ((40, 61), (40, 61)),
    ((40, 61), (40, 61)),
    ((10, 12), (10, 12)),  # enlarged to one window
    ((20, 70), (20, 70)),  # and to several
    ((95, 33), (47, 16)),
    ((32, 24), (32, 24)),
]


def scores(x: torch.Tensor) -> torch.Tensor:
    """Class scores (B, 7, h, w) of every patch, one image at a time: not a bit depends on the batch."""
    mixed = torch.linspace(-1, 1, 21).view(7, 3, 1, 1)
    found = [(mixed * torch.nn.functional.avg_pool2d(one, PATCH)).sum(1) for one in x]
    return torch.stack(found).sin()


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_are_those_of_sliding_windows_alone(batch, dtype, rng):
    images = [torch.from_numpy(rng.integers(0, 256, (*size, 3)).astype(np.uint8)) for size, _ in SIZES]
    pixels = NORMALIZATIONS["deit"]
    view = View(pixels, WINDOW, 20, Bilinear(PATCH), dtype)
    expected, windows = [], []

    def alone(x: torch.Tensor) -> torch.Tensor:
        windows.append(x[0])
        return upsampled(scores(x.float()), PATCH, WINDOW)

    for image, (_, at) in zip(images, SIZES, strict=True):
        x = normalised(image[None], pixels.mean, pixels.std, dtype)
        expected.append(labels_at(sliding_logits(alone, x, WINDOW, 20), at)[0])

    batches: list[torch.Tensor] = []
    memory = torch.empty(batch, 7, 4, 3)

    def run(x: torch.Tensor) -> torch.Tensor:
        batches.append(x.clone())
        memory[: len(x)] = scores(x.float())  # as a CUDA graph does
        return memory[: len(x)]

    found: list[torch.Tensor] = []
    for part, labels in labelled(run, [image.clone for image in images], SIZES, view, batch):
        assert part.start == len(found)
        found += labels
        assert part.stop == len(found)
    assert len(found) == len(images)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert {len(x) for x in batches[:-1]} <= {batch}
    assert len(batches) == -(-len(windows) // batch)
    assert torch.equal(torch.cat(batches)[: len(windows)], torch.stack(windows))


def test_images_are_read_one_after_the_other(rng):
    """A batch reads no more of them than its windows need."""
    read: list[int] = []

    def image(index: int) -> torch.Tensor:
        read.append(index)
        return torch.zeros(*WINDOW, 3, dtype=torch.uint8)

    view = View(NORMALIZATIONS["vit"], WINDOW, 20, Bilinear(PATCH), torch.float32)
    sizes = [(WINDOW, WINDOW)] * 7
    images = [lambda index=index: image(index) for index in range(7)]
    for part, _ in labelled(scores, images, sizes, view, 3):
        assert read == list(range(min(7, part.stop)))
