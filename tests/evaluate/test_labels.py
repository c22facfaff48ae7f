# SPDX-License-Identifier: Apache-2.0
"""Most likely classes, however many images are upsampled at a time."""

import pytest
import torch
import torch.nn.functional as F

from raycomp.evaluate import labels
from raycomp.evaluate.labels import labels_at, labels_of_windows, most_likely
from raycomp.models import pixels
from raycomp.models.pixels import Bilinear, upsampled


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def straight(scores: torch.Tensor, patch: int, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(scores, scale_factor=float(patch), mode="bilinear")[..., : size[0], : size[1]]


@pytest.mark.parametrize(
    ("patch", "grid", "size"), [(8, (4, 4), (32, 32)), (4, (3, 7), (10, 27)), (16, (1, 2), (9, 30))]
)
@pytest.mark.parametrize("most", [1, 3000, 2**24])
def test_labels_are_the_argmax_of_logits_whatever_fits_at_a_time(patch, grid, size, most, monkeypatch):
    scores = drawn(5, 6, *grid)
    scores[:, 4] = scores[:, 1]  # ties go to the lower class
    monkeypatch.setattr(labels, "_AT_ONCE_ON_CPU", most)
    seen: list[int] = []

    def watched(part, patch, size):
        seen.append(part.shape[0] * part.shape[1] * size[0] * size[1])
        return upsampled(part, patch, size)

    monkeypatch.setattr(pixels, "upsampled", watched)
    found = most_likely(scores, Bilinear(patch), size)
    assert torch.equal(found, straight(scores, patch, size).argmax(1))
    assert not (found == 4).any()
    assert max(seen) <= max(most, 6 * size[0] * size[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_upsampled_in_float32(dtype):
    """Upsampled as they are, many pixels tie or turn; in float32 all but near ties are as in float64."""
    scores = drawn(2, 9, 6, 6).to(dtype)
    exact = straight(scores.double(), 8, (48, 48)).argmax(1)
    assert torch.equal(most_likely(scores, Bilinear(8), (48, 48)), exact)
    assert not torch.equal(straight(scores, 8, (48, 48)).argmax(1), exact)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("most", [1, 5000, 2**31 - 1])
def test_logits_are_the_same_in_parts_and_lie_channels_last(batch, most, monkeypatch):
    """CUDA's kernel refuses 2^31 logits. A transposed score at batch 1 passes for channels last and is not."""
    monkeypatch.setattr(pixels, "_UPSAMPLED_AT_ONCE", most)
    scores = drawn(batch, 20, 7).transpose(1, 2).unflatten(2, (4, 5))
    scores.requires_grad_()
    logits = upsampled(scores, 8, (30, 37))
    expected = straight(scores.double(), 8, (30, 37))
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=2e-6)
    assert logits.stride()[1] == 1
    weights = drawn(*logits.shape)
    [found] = torch.autograd.grad((logits * weights).sum(), scores)
    [wanted] = torch.autograd.grad((expected * weights).sum(), scores)
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("at", [(20, 30), (33, 41)])
@pytest.mark.parametrize("most", [1, 2**24])
def test_overlapping_windows_are_averaged_pixel_by_pixel(at, most, monkeypatch):
    monkeypatch.setattr(labels, "_AT_ONCE_ON_CPU", most)
    window, seen = (16, 16), (20, 30)
    corners = [(0, 0), (0, 10), (0, 14), (4, 0), (4, 10), (4, 14)]
    places = [(slice(top, top + 16), slice(left, left + 16)) for top, left in corners]
    scores = drawn(3, 6, 5, 4, 4)
    total, count = torch.zeros(3, 5, *seen, dtype=torch.float64), torch.zeros(seen)
    for index, place in enumerate(places):
        total[(..., *place)] += straight(scores[:, index].double(), 4, window)
        count[place] += 1
    expected = F.interpolate(total / count, at, mode="bilinear").argmax(1)
    found = labels_of_windows(scores, Bilinear(4), window, places, seen, at)
    assert (found != expected).float().mean() < 1e-3  # float32 against float64: near ties


def test_labels_at_another_size_do_not_depend_on_the_layout():
    logits = drawn(1, 20, 9, 11)
    last = logits.contiguous(memory_format=torch.channels_last)
    assert torch.equal(labels_at(logits, (14, 30)), labels_at(last, (14, 30)))
