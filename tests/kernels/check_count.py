# SPDX-License-Identifier: Apache-2.0
"""Counts of pixels by the kernel; `test_kernels` runs this file."""

import math

import pytest
import torch

from raycomp import kernels
from raycomp.evaluate.confusions import Confusions
from raycomp.kernels import count
from tests.kernels.conftest import DEVICE


def check(truth: torch.Tensor, predicted: torch.Tensor, classes: int) -> None:
    """Against a bincount, image by image."""
    found = count.confusions(truth.to(DEVICE), predicted.to(DEVICE), classes).cpu()
    assert found.dtype == torch.int32
    for one, true, guess in zip(found, truth, predicted, strict=True):
        labelled = true < classes
        cells = true[labelled].long() * classes + guess[labelled].long()
        assert torch.equal(one.flatten().long(), torch.bincount(cells, minlength=classes**2))


def drawn(classes: int, repeats: int, *shape: int) -> torch.Tensor:
    """Labels in runs of `repeats` pixels."""
    pixels = math.prod(shape)
    few = torch.randint(0, classes, (pixels // repeats + 1,), generator=torch.Generator().manual_seed(repeats))
    return few.repeat_interleave(repeats)[:pixels].view(shape).byte()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 7), (3, 32, 32), (2, 32, 64), (2, 45, 61)])
@pytest.mark.parametrize(("classes", "repeats"), [(2, 1), (150, 9), (255, 400)])
def test_counts_equal_a_bincount(dtype, shape, classes, repeats):
    truth, predicted = drawn(classes, repeats, *shape), drawn(classes, repeats + 3, *shape)
    truth.view(-1)[::5] = 255
    truth.view(-1)[-40:] = 255
    check(truth, predicted.to(dtype), classes)


def test_one_class_everywhere_and_no_label_anywhere():
    same = torch.full((2, 40, 60), 3, dtype=torch.uint8)
    check(same, same, 4)
    check(torch.full_like(same, 255), same, 4)


def test_labels_that_are_not_contiguous():
    truth, predicted = drawn(5, 3, 2, 40, 30).transpose(1, 2), drawn(5, 4, 2, 30, 80)[..., ::2]
    check(truth, predicted, 5)


def test_tables_of_a_measurement_are_the_same_with_the_kernel(monkeypatch):
    truth, predicted, variants = drawn(6, 3, 4, 20, 30), drawn(6, 4, 4, 20, 30), torch.tensor([0, 2, 2, 1])
    found = []
    for usable in (False, True):
        monkeypatch.setattr(kernels, "usable", lambda *_, usable=usable: usable)
        counted = Confusions(3, 6, torch.device(DEVICE))
        counted.add(truth.to(DEVICE), predicted.to(DEVICE), variants.to(DEVICE))
        found.append((counted.table(), *counted.by_class()))
    for plain, fused in zip(*found, strict=True):
        assert (plain == fused).all()
