# SPDX-License-Identifier: Apache-2.0
"""Labels by the kernel; `test_kernels` runs this file."""

import pytest
import torch
import torch.nn.functional as F

from raycomp.kernels import upsample
from tests.kernels.conftest import DEVICE


def check(scores: torch.Tensor, patch: int, size: tuple[int, int]) -> None:
    labels = upsample.labels(scores.to(DEVICE), patch, size).cpu()
    assert labels.dtype == torch.uint8
    height, width = size
    logits = F.interpolate(scores.float(), scale_factor=float(patch), mode="bilinear")[..., :height, :width]
    assert labels.shape == (len(scores), *size)
    gap = logits.amax(1) - logits.gather(1, labels.long()[:, None])[:, 0]
    assert gap.max() < 1e-5
    assert (labels == logits.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("classes", "grid", "patch", "size"),
    [
        (2, (1, 1), 8, (8, 8)),
        (5, (3, 4), 8, (24, 32)),
        (11, (3, 2), 16, (41, 30)),
        (3, (4, 3), 14, (50, 42)),
        (4, (3, 3), 7, (21, 20)),
        (3, (2, 2), 32, (64, 60)),
    ],
)
def test_labels_are_those_of_the_upsampled_scores(dtype, classes, grid, patch, size):
    scores = torch.randn(2, classes, *grid, generator=torch.Generator().manual_seed(0)).to(dtype)
    check(scores, patch, size)


def test_as_many_classes_as_a_byte_holds():
    check(torch.randn(1, 255, 1, 2, generator=torch.Generator().manual_seed(0)), 4, (4, 7))


def test_scores_with_the_classes_last_as_a_model_gives_them():
    scores = torch.randn(2, 12, 6, generator=torch.Generator().manual_seed(0)).transpose(1, 2).unflatten(2, (4, 3))
    check(scores, 8, (30, 24))


def test_equal_scores_take_the_lower_class():
    scores = torch.tensor([0.0, 2.0, 2.0, 1.0])[None, :, None, None].expand(1, 4, 2, 3)
    assert upsample.labels(scores.to(DEVICE), 4, (8, 12)).eq(1).all()
