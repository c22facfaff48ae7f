# SPDX-License-Identifier: Apache-2.0
"""ALGM against loops in float64, and in a model."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raycomp.compress.apply import compress
from raycomp.errors import UserError
from raycomp.evaluate.token_counts import tokens_per_block
from raycomp.merging import Algm
from raycomp.merging.algm import algm_blocks, alike
from raycomp.merging.tokens import best_windows_first, window_scores
from raycomp.models.pixels import restore
from raycomp.recipe import Recipe, dense
from tests.conftest import seeded_images, seeded_model, seeded_saliency


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def brute_force_scores(patches: np.ndarray, grid: tuple[int, int]) -> list[float]:
    """The mean cosine of the six pairs of each window."""
    rows, columns = grid
    scores = []
    for row in range(0, rows, 2):
        for column in range(0, columns, 2):
            four = [patches[(row + i) * columns + column + j] for i in range(2) for j in range(2)]
            scores.append(float(np.mean([cosine(four[i], four[j]) for i in range(4) for j in range(i)])))
    return scores


def brute_force_positions(scores: list[float], threshold: float, grid: tuple[int, int], prefix: int) -> list[int]:
    """Special tokens, merged windows by falling score, other patches in raster order: each token's position."""
    rows, columns = grid
    merged = sorted((w for w in range(len(scores)) if scores[w] >= threshold), key=lambda w: -scores[w])
    position = {("window", window): prefix + place for place, window in enumerate(merged)}
    names = []
    for patch in range(rows * columns):
        window = patch // columns // 2 * (columns // 2) + patch % columns // 2
        names.append(("window", window) if window in merged else ("patch", patch))
    for name in names:
        position.setdefault(name, prefix + len(position))
    return [*range(prefix), *(position[name] for name in names)]


def brute_force_groups(
    tokens: np.ndarray, sizes: np.ndarray, prefix: int, block: int
) -> tuple[list[list[int]], np.ndarray]:
    """One image's global merge, by the published steps: which tokens end up together."""
    sources = [i for i in range(len(tokens)) if i % 2 == 0 and i >= prefix]
    destinations = [i for i in range(len(tokens)) if i % 2 == 1 and i >= prefix]
    partner = {s: max(destinations, key=lambda d: cosine(tokens[s], tokens[d])) for s in sources}
    best = np.array([cosine(tokens[s], tokens[partner[s]]) for s in sources])
    merging = [s for s, score in zip(sources, best, strict=True) if score >= best.mean() + best.std(ddof=1) / block]
    kept = [*range(prefix), *(s for s in sources if s not in merging), *destinations]
    groups = [[t, *(s for s in merging if partner[s] == t)] for t in kept]
    means = [np.average(tokens[g], axis=0, weights=sizes[g]) for g in groups]
    return groups, np.array(means)


@pytest.mark.parametrize("grid", [(2, 2), (4, 6), (6, 4)])
def test_window_scores_equal_brute_force(grid, rng):
    patches = rng.standard_normal((3, grid[0] * grid[1], 7))
    scores = window_scores(torch.from_numpy(patches), grid)
    np.testing.assert_allclose(scores, [brute_force_scores(image, grid) for image in patches], atol=1e-12)


@pytest.mark.parametrize("prefix", [1, 2])
@pytest.mark.parametrize("grid", [(4, 6), (6, 4), (8, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_both_merges_equal_brute_force_on_one_image(grid, prefix, seed):
    rng = np.random.default_rng(seed)
    rows, columns = grid
    x = rng.standard_normal((prefix + rows * columns, 5)) + 1.5
    scores = np.array(brute_force_scores(x[prefix:], grid))
    threshold = round(float(np.median(scores)), 6)
    algm = Algm(blocks=(1, 2), threshold=threshold)
    local, record = algm.merge(0, torch.from_numpy(x)[None], torch.empty(0), None, grid, prefix)

    together = scores >= threshold
    assert 0 < together.sum() < len(together)
    positions = np.array(brute_force_positions(scores.tolist(), threshold, grid, prefix))
    expected = np.array([x[positions == p].mean(0) for p in range(positions.max() + 1)])
    np.testing.assert_allclose(local[0], expected, rtol=1e-6)
    assert record.source[0].tolist() == positions[prefix:].tolist()

    final, record = algm.merge(1, local, torch.empty(0), record, grid, prefix)
    sizes = np.array([(positions == p).sum() for p in range(positions.max() + 1)], dtype=float)
    groups, means = brute_force_groups(local[0].numpy(), sizes, prefix, block=2)
    assert len(groups) < len(sizes)
    np.testing.assert_allclose(final[0], means, rtol=1e-6)
    where = {token: place for place, group in enumerate(groups) for token in group}
    assert record.source[0].tolist() == [where[p] for p in positions[prefix:]]
    assert record.size[0].tolist() == [sizes[g].sum() for g in groups]


def test_merged_windows_come_first_by_falling_score():
    """Three windows, of which the last two merge: the better one leads, and the first keeps its four patches."""
    grid, scores = (2, 6), torch.tensor([[0.2, 0.7, 0.9]])
    assert best_windows_first(scores, 2, grid, 1).tolist() == [[0, 3, 4, 2, 2, 1, 1, 5, 6, 2, 2, 1, 1]]


def test_a_source_exactly_at_the_limit_merges_globally():
    """All sources alike: the deviation is 0, and every best cosine equals the mean."""
    best = torch.tensor([[-torch.inf, 0.5, 0.5, 0.5]])
    assert alike(best, 2, 1).tolist() == [[True, True, True]]


def algm_recipe(shape, **points) -> Recipe:
    return dense(shape).model_copy(update={"merge": Algm(blocks=algm_blocks(shape.depth), **points)})


def test_a_batch_merges_what_its_least_merging_image_would(model, saliency, shape):
    images = seeded_images(shape, count=4)
    images[0] *= 0.01  # a flat image, whose windows are all alike
    built = compress(model, algm_recipe(shape, threshold=0.97), saliency)
    alone = [built.encoder(image[None])[0].shape[1] for image in images]
    batch = built.encoder(images)[0].shape[1]
    assert len(set(alone)) > 1
    assert batch >= max(alone)


def test_fixed_counts_equal_adaptive_ones_that_merge_as_many(model, saliency, shape):
    image = seeded_images(shape, count=1)
    adaptive = compress(model, algm_recipe(shape, threshold=0.1), saliency)
    logits, counts = adaptive(image), tokens_per_block(adaptive, image)
    patches = 6 * 8
    merged_windows = (patches + 2 - counts[0]) // 3
    left = counts[0] - 2
    fixed = algm_recipe(shape, windows=merged_windows / 12, pairs=(counts[0] - counts[1]) / left)
    assert 0 < merged_windows < 12
    assert counts[1] < counts[0]
    torch.testing.assert_close(compress(model, fixed, saliency)(image), logits, rtol=0, atol=0)


def test_algm_does_not_weigh_attention_by_size(model, saliency, shape, monkeypatch):
    from raycomp.models.block import Attention

    seen = []
    forward = Attention.forward
    monkeypatch.setattr(Attention, "forward", lambda self, x, *how: seen.append(how[0]) or forward(self, x, *how))
    compress(model, algm_recipe(shape, windows=0.5, pairs=0.2), saliency)(seeded_images(shape))
    assert seen
    assert all(bias is None for bias in seen)


def test_merging_nothing_changes_nothing(model, saliency, shape):
    images = seeded_images(shape)
    off = Recipe(embed=32, blocks=dense(shape).blocks, merge=Algm(blocks=(1, 2), windows=0, pairs=0))
    assert off == dense(shape)
    assert torch.equal(compress(model, off, saliency)(images), model(images))
    nearly_off = compress(model, algm_recipe(shape, threshold=1.0), saliency).encoder
    merged, tokens = nearly_off.merger.merge(
        0, images.flatten(1).view(2, -1, 32)[:, :50], torch.empty(0), None, (6, 8), 2
    )
    assert tokens is None
    assert merged.shape[1] == 50


def test_restored_features_cover_the_grid(model, saliency, shape):
    built = compress(model, algm_recipe(shape, windows=0.5, pairs=0.3), saliency)
    features, tokens = built.encoder(seeded_images(shape))
    assert tokens.size.sum(1).tolist() == [50, 50]
    assert restore(features[:, 2:], tokens, 2).shape == (2, 48, 32)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"threshold": 1.2}, "less than or equal to 1"),
        ({"threshold": -1.5}, "greater than or equal to -1"),
        ({"windows": 0.5, "pairs": 0.7}, "less than or equal to 0.5"),
        ({"windows": 0.5}, "either threshold, -1 to 1, or both windows, 0 to 1, and pairs, 0 to 0.5"),
        ({"threshold": 0.5, "pairs": 0.1}, "either threshold"),
        ({"threshold": 0.5, "blocks": (5, 1)}, "windows must merge before pairs"),
        ({"threshold": 0.5, "blocks": (1, 9)}, "blocks are 1 to 3"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(points, message, shape):
    with pytest.raises(ValidationError, match=message):
        Recipe(embed=32, blocks=dense(shape).blocks, merge=Algm(**{"blocks": (1, 2), **points}))


def test_a_grid_that_windows_do_not_tile_says_the_nearest_that_they_do(shape):
    odd = seeded_model(shape.model_copy(update={"image": (40, 56)}))
    built = compress(odd, algm_recipe(odd.shape, threshold=0.9), seeded_saliency(odd))
    with pytest.raises(UserError, match=r"it is 5x7; nearest grids: 4x6 or 6x8"):
        built(seeded_images(odd.shape))


def test_published_blocks():
    assert algm_blocks(12) == (1, 5)
    assert algm_blocks(24) == (1, 7)
