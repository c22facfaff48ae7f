# SPDX-License-Identifier: Apache-2.0
"""CTS: superpatch sharing against a loop in float64, and in a model."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raycomp.compress.apply import compress
from raycomp.errors import UserError
from raycomp.merging import Cts
from raycomp.merging.cts import share, shared_superpatches
from raycomp.models.pixels import restore
from raycomp.models.policy import Policy
from raycomp.recipe import Recipe, dense
from tests.conftest import seeded_images, seeded_model, seeded_saliency


def brute_force_tokens(image, shared, projection, position, grid) -> tuple[np.ndarray, list[int]]:
    """Embed one image patch by patch: a shared superpatch is halved by bilinear interpolation first."""
    rows, columns = grid
    side = projection.stride[0]
    tokens: list[np.ndarray] = []
    where: dict[int, int] = {}
    source = []
    for row in range(rows):
        for column in range(columns):
            window = row // 2 * (columns // 2) + column // 2
            if not shared[window]:
                piece = image[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
                place = position[row * columns + column]
            elif window not in where:
                piece = image[:, row * side : (row + 2) * side, column * side : (column + 2) * side]
                piece = torch.nn.functional.interpolate(
                    piece[None], scale_factor=0.5, mode="bilinear", align_corners=False
                )[0]
                runs = position.view(rows, columns, -1)[row : row + 2, column : column + 2]
                place = runs.mean((0, 1))
                where[window] = len(tokens)
            else:
                source.append(where[window])
                continue
            source.append(len(tokens))
            tokens.append((projection(piece[None]).flatten() + place).detach().numpy())
    return np.array(tokens), source


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (6, 4)])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_sharing_equals_brute_force(grid, count, rng):
    runs = grid[0] * grid[1] // 4
    count = min(count, runs)
    projection = torch.nn.Conv2d(3, 5, 8, 8).double()
    images = torch.from_numpy(rng.standard_normal((3, 3, grid[0] * 8, grid[1] * 8)))
    position = torch.from_numpy(rng.standard_normal((1, grid[0] * grid[1], 5)))
    shared = torch.zeros(3, runs, dtype=torch.bool)
    for image in shared:
        image[torch.from_numpy(rng.choice(runs, count, replace=False))] = True
    x, tokens = share(images, shared, count, projection, position, grid, prefix=2)
    for i in range(3):
        expected, source = brute_force_tokens(images[i], shared[i], projection, position[0], grid)
        np.testing.assert_allclose(x[i].detach(), expected, rtol=1e-10, atol=1e-12)
        assert (tokens.source[i] - 2).tolist() == source
        assert tokens.size[i, 2:].tolist() == np.bincount(source).tolist()


def cts_recipe(shape, share: float) -> Recipe:
    return dense(shape).model_copy(update={"merge": Cts(share=share, policy="small")})


@pytest.fixture(scope="module")
def policy() -> Policy:
    torch.manual_seed(0)
    return Policy("small", 8).eval()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_a_shared_superpatch_gets_one_mask_for_its_four_cells(model, saliency, shape, policy, share):
    built = compress(model, cts_recipe(shape, share), saliency, policy)
    images = seeded_images(shape)
    features, tokens = built.encoder(images)
    count = shared_superpatches(share, 48)
    assert features.shape[1] == 2 + 48 - 3 * count
    scores = built.patch_scores(images)  # (B, K, 6, 8)
    best = policy(images)
    order = (best[:, 1] - best[:, 0]).flatten(1).argsort(dim=1, descending=True, stable=True)
    for image in range(2):
        for window in order[image, :count].tolist():
            row, column = divmod(window, 4)
            runs = scores[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(runs, runs[:, :1, :1].expand(-1, 2, 2))
    assert tokens.size.sum(1).tolist() == [50, 50]


def test_patch_indices_come_back_in_order():
    """Positions carry each superpatch's number; nothing else is embedded; every run gets its number back."""
    grid = (4, 6)
    numbers = (torch.arange(4)[:, None] // 2 * 3 + torch.arange(6) // 2).flatten().double()
    projection = torch.nn.Conv2d(3, 1, 8, 8).double()
    torch.nn.init.zeros_(projection.bias)
    shared = torch.tensor([[True, False, True, False, False, True]])
    x, tokens = share(torch.zeros(1, 3, 32, 48).double(), shared, 3, projection, numbers[None, :, None], grid, 1)
    assert x.shape[1] == 24 - 9
    assert restore(x, tokens, prefix=1).flatten().tolist() == numbers.tolist()


def test_sharing_nothing_changes_nothing(model, saliency, shape):
    images = seeded_images(shape)
    off = Recipe(embed=32, blocks=dense(shape).blocks, merge=Cts(share=0))
    assert off == dense(shape)
    assert torch.equal(compress(model, off, saliency)(images), model(images))


def test_the_whole_model_keeps_its_policy_while_it_trains(model, saliency, shape, policy):
    built = compress(model, cts_recipe(shape, 0.3), saliency, policy)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    built.train()
    built(seeded_images(shape)).sum().backward()
    held = built.encoder.sharer.policy.state_dict()
    assert all(torch.equal(held[name], value) for name, value in before.items())
    assert all(p.grad is None for p in built.encoder.sharer.policy.parameters())


@pytest.mark.parametrize("share", [-0.1, 0.76])
def test_a_share_that_leaves_nothing_says_the_range(share):
    with pytest.raises(ValidationError, match=r"(greater than or equal to 0|less than or equal to 0\.75)"):
        Cts(share=share)


def test_no_policy_and_odd_grids_are_one_line(model, saliency, shape, policy):
    with pytest.raises(UserError, match=r"needs policy\.checkpoint"):
        compress(model, cts_recipe(shape, 0.5), saliency)
    odd = seeded_model(shape.model_copy(update={"image": (40, 64)}))
    with pytest.raises(UserError, match="it is 5x8; nearest grids: 4x8 or 6x8"):
        compress(odd, cts_recipe(odd.shape, 0.5), seeded_saliency(odd), policy)(seeded_images(odd.shape))


@pytest.mark.parametrize(("share", "k"), [(0.3, 103), (0.6, 205), (0.7, 239)])
def test_published_superpatch_counts(share, k):
    assert shared_superpatches(share, 1024) == k
