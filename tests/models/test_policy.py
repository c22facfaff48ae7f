"""Policy networks: published cost, ground truth, one answer a superpatch."""

import pytest
import torch

from raycomp.errors import UserError
from raycomp.models.policy import Policy, one_class, policy_loss
from raycomp.policies import check_superpatches, policy_cost
from tests.counting import counted


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


def test_ground_truth_equals_a_loop(rng):
    labels = torch.from_numpy(rng.integers(0, 3, (2, 16, 24)))
    labels[0, :8, :8] = 2
    labels[0, :4, :4] = 255
    labels[1, 8:, 16:] = 255
    truth = one_class(labels, 8, ignore=255)
    for image in range(2):
        for row in range(2):
            for column in range(3):
                cell = labels[image, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
                found = set(cell.flatten().tolist()) - {255}
                assert truth[image, row, column] == (255 if not found else int(len(found) == 1))
    assert truth[0, 0, 0] == 1
    assert truth[1, 1, 2] == 255


@pytest.mark.parametrize(("size", "near"), [((32, 48), None), ((41, 55), "48x48"), ((32, 5), "32x16")])
def test_superpatches_tile_a_crop(size, near):
    if near is None:
        check_superpatches("data.window", size, 8)
        return
    with pytest.raises(UserError, match=rf"data\.window is {size[0]}x{size[1]}: .* nearest allowed: {near}"):
        check_superpatches("data.window", size, 8)


def test_images_without_labels_change_nothing():
    policy = Policy("small", 8)
    (value,) = policy_loss(policy, torch.randn(2, 3, 32, 48), torch.full((2, 32, 48), 255))
    value.backward()
    assert value == 0
    assert all((p.grad == 0).all() for p in policy.parameters())


@pytest.mark.parametrize(("kind", "patch"), [("efficientnet_lite0", 8), ("small", 12)])
def test_a_policy_that_cannot_see_superpatches_is_refused(kind, patch):
    with pytest.raises(UserError, match="needs patches of"):
        Policy(kind, patch)
