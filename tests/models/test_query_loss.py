# SPDX-License-Identifier: Apache-2.0
"""The loss of EoMT against transformers', whose points are drawn in the same order, and on cases known by hand."""

from itertools import permutations

import pytest
import torch

from raycomp.data.samples import IGNORE
from raycomp.losses import distilled, pixel_loss
from raycomp.models import query_loss as losses
from raycomp.models.query_loss import query_loss
from tests.conftest import seeded_images, seeded_model, seeded_saliency
from tests.models.heads.shapes import shape_of


def drawn(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)))


def blocks(*classes: int) -> torch.Tensor:
    """Labels (1, 16, 4 * n) of vertical stripes."""
    return torch.tensor(classes, dtype=torch.uint8).repeat_interleave(4).expand(1, 16, -1)


LABELS = [
    torch.cat([blocks(0, 1, 2, 3), blocks(1, 1, IGNORE, 4)]),
    torch.cat([blocks(0, 0, 0, 0), blocks(IGNORE, 4, 3, 2)]),
    blocks(IGNORE, 2, 2, 2),
]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("queries", [3, 7])
def test_loss_and_gradients_are_those_of_transformers(labels, queries):
    """With 3 queries an image of 4 classes leaves one class unmatched."""
    transformers = pytest.importorskip("transformers")
    config = transformers.EomtConfig(num_labels=5, train_num_points=64)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    criterion = transformers.models.eomt.modeling_eomt.EomtLoss(config, weights)
    masks, classes = 3 * drawn(len(labels), queries, 8, 8), drawn(len(labels), queries, 6)
    present = [torch.tensor(sorted(set(one.flatten().tolist()) - {IGNORE})) for one in labels]
    targets = [(one == which[:, None, None]).float() for one, which in zip(labels, present, strict=True)]
    results = []
    for ours in (True, False):
        leaves = [masks.clone().requires_grad_(), classes.clone().requires_grad_()]
        torch.manual_seed(0)
        if ours:
            loss = query_loss(leaves[0], leaves[1], labels, points=64)
        else:
            parts = criterion(*leaves, targets, present)
            loss = sum(weights[name] * part for name, part in parts.items())
        results.append([loss, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_assignment_equals_a_brute_force_search():
    masks, classes, labels = drawn(1, 5, 4, 4), drawn(1, 5, 4), blocks(0, 1, 2)[0]
    present = torch.tensor([0, 1, 2])
    targets = (labels == present[:, None, None]).float()
    places = torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0))
    queries, order = losses._assigned(masks[0], classes[0], targets, present, places)
    points = places[0] * torch.tensor([12.0, 16.0]) - 0.5

    def at(image: torch.Tensor, x: float, y: float) -> float:
        """Bilinear interpolation by hand, zero outside."""
        total = 0.0
        for row in (int(y // 1), int(y // 1) + 1):
            for column in (int(x // 1), int(x // 1) + 1):
                if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                    total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(image[row, column])
        return total

    inside = torch.tensor([[at(one, *point) for point in points.tolist()] for one in targets], dtype=torch.float64)
    small = places[0] * 4 - 0.5
    chance = torch.tensor([[at(one, *point) for point in small.tolist()] for one in masks[0]]).double().sigmoid()
    best, choice = min(
        (
            sum(
                5 * float(-(y * p.log() + (1 - y) * (1 - p).log()).mean())
                - 2 * float(classes[0, q].softmax(-1)[k])
                + 5 * float(1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
                for k, (q, y) in enumerate(zip(chosen, inside, strict=True))
                for p in [chance[q]]
            ),
            chosen,
        )
        for chosen in permutations(range(5), 3)
    )
    assert best < 100
    assert {int(k): int(q) for q, k in zip(queries, order, strict=True)} == dict(enumerate(choice))


def test_unlabelled_images_supervise_only_no_object():
    masks, classes = drawn(2, 4, 8, 8).requires_grad_(), drawn(2, 4, 6).requires_grad_()
    loss = query_loss(masks, classes, torch.full((2, 16, 16), IGNORE, dtype=torch.uint8), points=16)
    assert loss.item() == pytest.approx(-2 * classes.log_softmax(-1)[..., -1].mean().item())
    assert torch.autograd.grad(loss, masks, allow_unused=True)[0] is None


def test_training_lowers_the_loss_and_saliency_is_repeatable():
    shape = shape_of("eomt")
    model, images = seeded_model(shape), seeded_images(shape)
    labels = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(16, 1).repeat_interleave(16, 2)
    first, second = seeded_saliency(model), seeded_saliency(model)
    assert all(torch.equal(score, second[name]) for name, score in first.items())
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    teacher = seeded_model(shape, seed=1)
    for loss in (pixel_loss, distilled(teacher, 1.0)):
        seen = []
        for _ in range(15):
            optimiser.zero_grad()
            [value] = loss(model, images, labels)
            value.backward()
            optimiser.step()
            seen.append(value.item())
        assert seen[-1] < seen[0]
