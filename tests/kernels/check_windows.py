# SPDX-License-Identifier: Apache-2.0
"""Labels of images seen window by window, by the kernel; `test_kernels` runs this file."""

import pytest
import torch
import torch.nn.functional as F

from raycomp import kernels
from raycomp.evaluate.labels import labels_of_windows
from raycomp.evaluate.sliding import anchors
from raycomp.kernels import upsample
from raycomp.models.pixels import Bilinear
from tests.kernels.conftest import DEVICE

Size = tuple[int, int]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def corners(size: Size, window: Size, stride: int) -> tuple[Size, ...]:
    tops, lefts = (anchors(size[axis], window[axis], stride) for axis in (0, 1))
    return tuple((top, left) for top in tops for left in lefts)


def mean(scores: torch.Tensor, patch: int, window: Size, at: tuple[Size, ...], size: Size) -> torch.Tensor:
    """Logits in float64, a window at a time."""
    total, count = torch.zeros(len(scores), scores.shape[2], *size, dtype=torch.float64), torch.zeros(size)
    for index, (top, left) in enumerate(at):
        place = (slice(top, top + window[0]), slice(left, left + window[1]))
        logits = F.interpolate(scores[:, index].double(), scale_factor=float(patch), mode="bilinear")
        total[(..., *place)] += logits[..., : window[0], : window[1]]
        count[place] += 1
    return total / count


def check(scores: torch.Tensor, patch: int, window: Size, at: tuple[Size, ...], size: Size) -> None:
    labels = upsample.labels_of_windows(scores.to(DEVICE), patch, window, at, size).cpu()
    assert labels.dtype == torch.uint8
    assert labels.shape == (len(scores), *size)
    logits = mean(scores, patch, window, at, size)
    gap = logits.amax(1) - logits.gather(1, labels.long()[:, None])[:, 0]
    assert gap.max() < 1e-5
    assert (labels == logits.argmax(1)).float().mean() > 0.999


CASES = [  # patch, window, size, stride, windows
    (8, (32, 32), (32, 32), 32, 1),
    (8, (32, 32), (32, 43), 32, 2),
    (8, (24, 16), (35, 29), 11, 6),
    (16, (48, 48), (48, 80), 32, 2),
    (14, (28, 42), (37, 71), 23, 6),
    (7, (27, 26), (27, 33), 5, 3),
    (4, (6, 16), (10, 30), 10, 6),
    (8, (16, 16), (16, 40), 3, 9),
    (1, (3, 3), (4, 5), 1, 6),
    (16, (16, 16), (33, 16), 11, 3),
]


@pytest.mark.parametrize(("patch", "window", "size", "stride", "number"), CASES)
def test_labels_are_those_of_the_mean_in_float64(patch, window, size, stride, number):
    at = corners(size, window, stride)
    assert len(at) == number
    grid = (-(-window[0] // patch), -(-window[1] // patch))
    check(drawn(2, number, 4, *grid), patch, window, at, size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_added_up_in_float32(dtype):
    check(drawn(2, 2, 5, 3, 3).to(dtype), 8, (24, 24), ((0, 0), (0, 11)), (24, 35))


def test_scores_with_the_classes_last_as_a_model_gives_them():
    scores = drawn(4, 12, 7).transpose(1, 2).unflatten(2, (4, 3)).unflatten(0, (2, 2))
    check(scores, 8, (30, 24), ((0, 0), (0, 9)), (30, 33))


def test_windows_that_are_no_grid_and_overlap_the_same_pixels():
    check(drawn(1, 5, 4, 2, 2), 8, (16, 16), ((0, 0), (3, 5), (0, 5), (3, 0), (3, 5)), (19, 21))


def test_as_many_classes_as_a_byte_holds():
    check(drawn(1, 2, 255, 1, 2), 4, (4, 7), ((0, 0), (0, 2)), (4, 9))


def test_equal_scores_take_the_lower_class():
    scores = torch.tensor([0.0, 2.0, 2.0, 1.0])[:, None, None].expand(1, 3, 4, 2, 3)
    at = ((0, 0), (0, 5), (0, 10))
    assert upsample.labels_of_windows(scores.to(DEVICE), 4, (8, 12), at, (8, 22)).eq(1).all()


def test_images_labelled_as_large_as_they_were_seen_take_the_kernel(monkeypatch):
    scores, patch, window, size = drawn(2, 2, 5, 3, 3).to(DEVICE), 4, (12, 12), (12, 17)
    places = [(slice(0, 12), slice(left, left + 12)) for left in (0, 5)]
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    wanted = labels_of_windows(scores, Bilinear(patch), window, places, size, size)
    smaller = labels_of_windows(scores, Bilinear(patch), window, places, size, (10, 14))
    monkeypatch.setattr(kernels, "usable", lambda *_: True)
    found = labels_of_windows(scores, Bilinear(patch), window, places, size, size)
    assert found.dtype == torch.uint8
    assert torch.equal(found.long(), wanted)
    assert torch.equal(labels_of_windows(scores, Bilinear(patch), window, places, size, (10, 14)), smaller)


def test_a_table_of_tiles_is_made_once():
    upsample._tiles.cache_clear()
    for _ in range(2):
        upsample.labels_of_windows(drawn(1, 2, 3, 2, 2).to(DEVICE), 4, (8, 8), ((0, 0), (0, 3)), (8, 11))
    assert upsample._tiles.cache_info()[:2] == (1, 1)
