# SPDX-License-Identifier: Apache-2.0
"""Windows, then ToMe, against loops in float64, and in a model."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raycomp.compress.apply import compress
from raycomp.errors import UserError
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.flops import profile
from raycomp.merging import Algm, ToMe, WindowsToMe
from raycomp.merging.tokens import Tokens
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY, seeded_images, seeded_model, seeded_saliency
from tests.helpers.matching import brute_force_match, brute_force_places
from tests.helpers.recipes import without

NARROW = Recipe(embed=24, blocks=(BlockWidths(heads=2, qk=8, v=8, mlp=64),) * 3)
SPACE = Space(TINY, SpaceConfig(mlp=WidthRange(low=32, step=16), merge="windows_tome"), TINY.image)


def merging(**settings) -> WindowsToMe:
    return WindowsToMe.model_validate({"windows": 0.5, "ratios": (0.25, 0.0, 0.1), **settings})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def groups_of_windows(x: np.ndarray, count: int, grid: tuple[int, int], prefix: int) -> list[list[int]]:
    """Special tokens, the `count` windows of highest mean cosine from the best on, then the other patches."""
    rows, columns = grid
    windows = []
    for row in range(0, rows, 2):
        for column in range(0, columns, 2):
            four = [prefix + (row + i) * columns + column + j for i in range(2) for j in range(2)]
            score = np.mean([cosine(x[a], x[b]) for a in four for b in four if a < b])
            windows.append((score, four))
    best = [four for _, four in sorted(windows, key=lambda window: -window[0])[:count]]
    taken = {token for four in best for token in four}
    return [[p] for p in range(prefix)] + best + [[t] for t in range(prefix, len(x)) if t not in taken]


def means(x: np.ndarray, sizes: np.ndarray, groups: list[list[int]]) -> np.ndarray:
    return np.array([np.average(x[group], axis=0, weights=sizes[group]) for group in groups])


def merged_pairs(x: np.ndarray, sizes: np.ndarray, compared: np.ndarray, r: int, prefix: int) -> list[list[int]]:
    positions = brute_force_match(compared, r, prefix)
    return [[t for t, p in enumerate(positions) if p == place] for place in range(len(x) - r)]


@pytest.mark.parametrize("metric", ["mean_keys", "keys", "near_keys"])
@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize(("grid", "windows", "ratio"), [((4, 6), 0.5, 0.3), ((6, 4), 1.0, 0.4), ((8, 8), 0.3, 0.1)])
def test_both_merges_of_a_block_equal_brute_force(grid, windows, ratio, prefix, metric, rng):
    count, patches = int(windows * grid[0] * grid[1] / 4 + 0.5), grid[0] * grid[1]
    x = rng.standard_normal((2, prefix + patches, 5)) + 1.5
    keys = rng.standard_normal((2, 3, prefix + patches, 4))
    merge = WindowsToMe(windows=windows, ratios=(ratio, ratio), metric=metric)
    found, tokens = merge.merge(0, torch.from_numpy(x), torch.from_numpy(keys), None, grid, prefix)
    left = patches - 3 * count
    r = int(ratio * left + 0.5)
    for image in range(2):
        compared = np.concatenate(keys[image], axis=-1) if metric == "keys" else keys[image].mean(0)
        local = groups_of_windows(x[image], count, grid, prefix)
        ones = np.ones(prefix + patches)
        stream, compared = means(x[image], ones, local), means(compared, ones, local)
        sizes = np.array([len(group) for group in local], float)
        if metric == "near_keys":
            compared = brute_force_places(compared, local, grid, prefix)
        pairs = merged_pairs(stream, sizes, compared, r, prefix)
        np.testing.assert_allclose(found[image], means(stream, sizes, pairs), rtol=1e-6)
        assert tokens.size[image].tolist() == [sizes[group].sum() for group in pairs]
        where = {token: place for place, pair in enumerate(pairs) for group in pair for token in local[group]}
        assert tokens.source[image].tolist() == [where[prefix + patch] for patch in range(patches)]


def test_later_blocks_merge_pairs_as_tome_does(rng):
    x, keys = torch.from_numpy(rng.standard_normal((2, 14, 5))), torch.from_numpy(rng.standard_normal((2, 3, 14, 4)))
    record = Tokens(size=torch.full((2, 14), 2.0), source=torch.arange(24).div(2).long().expand(2, -1) + 2)
    found, tokens = merging(ratios=(0.0, 0.3, 0.1)).merge(1, x, keys, record, (4, 6), 2)
    expected, kept = ToMe(ratios=(0.0, 0.3, 0.1), metric="near_keys").merge(1, x, keys, record, (4, 6), 2)
    assert torch.equal(found, expected)
    assert torch.equal(tokens.source, kept.source)


def test_windows_alone_are_those_of_algm(rng):
    x, keys = torch.from_numpy(rng.standard_normal((2, 26, 5))), torch.empty(2, 3, 26, 4, dtype=torch.float64)
    found, tokens = merging(ratios=(0.0, 0.2, 0.0)).merge(0, x, keys, None, (4, 6), 2)
    expected, kept = Algm(blocks=(1, 2), windows=0.5, pairs=0.0).merge(0, x, keys, None, (4, 6), 2)
    assert torch.equal(found, expected)
    assert torch.equal(tokens.source, kept.source)


def test_attention_weighs_tokens_by_size_from_the_windows_on(model, saliency, monkeypatch):
    from raycomp.models.block import Attention

    seen = []
    forward = Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda self, x, *how: seen.append(how[0]) or forward(self, x, *how))
    recipe = dense(TINY).merging(merging(block=2, windows=1.0, ratios=(0.0, 0.0, 0.0)))
    compress(model, recipe, saliency)(seeded_images(TINY))
    assert [bias is None for bias in seen[:2]] == [True, True]
    np.testing.assert_allclose(seen[2].exp(), [[1, 1, *[4] * 12]] * 2, rtol=1e-6)


def test_counts_of_windows_and_pairs(model, saliency):
    recipe = NARROW.merging(merging(windows=0.5, ratios=(0.25, 0.0, 0.1)))
    left = 48 - 3 * 6
    tokens = (2 + left - 8, 2 + left - 8, 2 + left - 8 - 2)  # round(0.25 * 30) and round(0.1 * 22)
    assert profile(TINY, recipe).tokens == tokens
    assert tuple(tokens_per_block(compress(model, recipe, saliency), seeded_images(TINY, 1))) == tokens


def test_without_windows_it_is_stored_as_tome():
    """Recipes that build the same model share an id."""
    recipe = dense(TINY).merging(merging(windows=0.0))
    assert recipe.merge == ToMe(ratios=(0.25, 0.0, 0.1), metric="near_keys")
    assert recipe.id == dense(TINY).merging(recipe.merge).id
    assert recipe.family(TINY) == "tome"
    assert merging(windows=0.0, ratios=(0.0,) * 3).empty


def test_its_id_stays_what_it_is():
    assert NARROW.merging(merging()).id == "01ea10d32530"


def test_a_space_of_it_holds_recipes_of_tome():
    recipe = dense(TINY).merging(ToMe(ratios=(0.25, 0.0, 0.125), metric="near_keys"))
    assert SPACE.outside(recipe) == ""
    assert SPACE.params(recipe) | {"mlp_0": 0} == SPACE.params(dense(TINY)) | {"merge_0": 16, "merge_2": 8, "mlp_0": 0}
    assert SPACE.recipe(SPACE.params(recipe)) == recipe
    other = dense(TINY).merging(merging(block=2, ratios=(0.0, 0.1, 0.0)))
    assert SPACE.outside(other) == (
        "it merges at merge_windows_1, but the space only at merge_windows_0, merge_0, merge_1, merge_2"
    )


def test_windows_merge_in_a_block_without_attention_but_pairs_do_not(model, saliency):
    recipe = without(dense(TINY).merging(merging(ratios=(0.25, 0.0, 0.1))), (0,))
    assert recipe.merge == merging(ratios=(0.0, 0.0, 0.1))
    assert tokens_per_block(compress(model, recipe, saliency), seeded_images(TINY, 1)) == [32, 32, 29]
    drop = SpaceConfig(heads=WidthRange(low=2, step=1, drop=True), merge="windows_tome")
    space = Space(TINY, drop, TINY.image)
    point = space.canonical(space.params(dense(TINY)) | {"heads_0": 1, "merge_windows_0": 8, "merge_0": 4})
    assert (point["merge_windows_0"], point["merge_0"]) == (8, 0)
    assert space.recipe(point).merge == merging(windows=0.25, ratios=(0.0,) * 3)


def test_a_fixed_block_merges_no_windows():
    fixed = SpaceConfig(mlp=WidthRange(low=32, step=16), merge="windows_tome", fixed={"blocks": (0,)})
    space = Space(TINY, fixed, TINY.image)
    assert [name for name in space.dimensions if name.startswith("merge")] == ["merge_1", "merge_2"]
    assert merging(ratios=(0.25, 0.1, 0.1)).sparing((0,), TINY, None).simplest == ToMe(
        ratios=(0.0, 0.1, 0.1), metric="near_keys"
    )
    problem = space.outside(dense(TINY).merging(merging(ratios=(0.0, 0.1, 0.0))))
    assert problem == "it merges at merge_windows_0, but the space only at merge_1, merge_2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": 1.2}, "less than or equal to 1"),
        ({"ratios": (0.6, 0, 0)}, "less than or equal to 0.5"),
        ({"block": 0, "ratios": (0, 0, 0)}, "greater than or equal to 1"),
        ({"block": 2}, r"windows_tome.block is 2: .* ratios before that block must be 0, not \[0.25\]"),
        ({"block": 4, "ratios": (0, 0, 0)}, "merge.block is 4; blocks are 1 to 3"),
        ({"ratios": (0.1, 0.1)}, "merge.ratios has 2 entries for 3 blocks"),
        ({"metric": "values"}, "Input should be 'mean_keys', 'keys' or 'near_keys'"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(settings, message):
    with pytest.raises(ValidationError, match=message):
        Recipe(embed=32, blocks=dense(TINY).blocks, merge=merging(**settings))


def test_a_grid_that_windows_do_not_tile_says_the_nearest_that_they_do():
    odd = seeded_model(TINY.model_copy(update={"image": (40, 56)}))
    built = compress(odd, dense(odd.shape).merging(merging()), seeded_saliency(odd))
    with pytest.raises(UserError, match=r"it is 5x7; nearest grids: 4x6 or 6x8"):
        built(seeded_images(odd.shape))
