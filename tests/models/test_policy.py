# SPDX-License-Identifier: Apache-2.0
"""Policy networks: published cost, ground truth, one answer a superpatch."""

import pytest
import torch

from raycomp.errors import UserError
from raycomp.losses import policy_loss
from raycomp.models.policy import Policy, one_class
from raycomp.policies import check_superpatches, policy_cost
from tests.helpers.counting import counted


@pytest.mark.parametrize(
    ("kind", "patch", "size", "expected"),
    [
        ("efficientnet_lite0", 16, 512, 1.971),
        ("efficientnet_lite0", 16, 768, 4.434),
        ("small", 16, 256, None),
        ("small", 8, 128, None),
        ("small", 8, 48, None),
    ],
)
def test_cost_equals_fvcore_and_the_published_one(kind, patch, size, expected):
    policy = Policy(kind, patch).eval()
    cost = policy_cost(kind, patch, (size, size))
    assert counted(policy, (size, size)) == cost
    if expected is not None:
        assert cost / 1e9 == pytest.approx(expected, abs=6e-4)
    with torch.inference_mode():
        cells = size // (2 * patch)
        assert policy(torch.zeros(2, 3, size, size)).shape == (2, 2, cells, cells)


@pytest.mark.parametrize(
    ("labels", "at_border", "inside"),
    [
        ([7, 7, 7, 7], 1, 1),
        ([0, 0, 0, 0], 1, 1),
        ([7, 7, 7, 3], 0, 0),
        ([255, 255, 255, 255], 1, 1),  # wholly unlabelled
        ([7, 7, 255, 255], 255, 0),  # one class and unlabelled pixels
        ([0, 0, 255, 255], 255, 0),
        ([7, 3, 255, 255], 0, 0),
    ],
)
def test_ground_truth_of_a_superpatch(labels, at_border, inside):
    """As the authors make it for ADE20K, and without `ignore_border` for Cityscapes."""
    cell = torch.tensor(labels).repeat_interleave(4).view(4, 4)
    image = torch.full((1, 12, 12), 9, dtype=torch.uint8)
    image[0, :4, 4:8] = cell
    image[0, 4:8, 4:8] = cell
    truth = one_class(image, 4, ignore_border=True)
    assert truth[0, :2, 1].tolist() == [at_border, inside]
    assert one_class(image, 4, ignore_border=False)[0, :2, 1].tolist() == [inside, inside]
    truth[0, :2, 1] = 1
    assert (truth == 1).all()


@pytest.mark.parametrize(("size", "near"), [((32, 48), None), ((41, 55), "48x48"), ((32, 5), "32x16")])
def test_superpatches_tile_a_crop(size, near):
    if near is None:
        check_superpatches("data.window", size, 8)
        return
    with pytest.raises(UserError, match=rf"data\.window is {size[0]}x{size[1]}: .* nearest allowed: {near}"):
        check_superpatches("data.window", size, 8)


def test_superpatches_without_truth_change_nothing():
    policy = Policy("small", 8)
    labels = torch.full((2, 32, 48), 7)
    labels[:, ::2] = 255  # 2 x 3 superpatches, all at the border, of one class but for unlabelled pixels
    (value,) = policy_loss(policy, torch.randn(2, 3, 32, 48), labels, ignore_border=True)
    value.backward()
    assert value == 0
    assert all((p.grad == 0).all() for p in policy.parameters())


@pytest.mark.parametrize(("kind", "patch"), [("efficientnet_lite0", 8), ("small", 12)])
def test_a_policy_that_cannot_see_superpatches_is_refused(kind, patch):
    with pytest.raises(UserError, match="needs patches of"):
        Policy(kind, patch)
