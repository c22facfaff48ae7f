# SPDX-License-Identifier: Apache-2.0
"""Effective rank from Gram matrices against singular values of every patch's features."""

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.evaluate.effective_rank import effective_rank, erank
from raycomp.merging import Algm, Cts, ToMe, WindowsToMe
from raycomp.models.pixels import restore
from raycomp.recipe import Recipe, dense
from tests.helpers.contexts import SHAPE

BLOCKS = dense(SHAPE).blocks


def by_svd(features: np.ndarray) -> float:
    s = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    p = s / s.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (64, 64), (1, 30), (30, 1)])
@pytest.mark.parametrize("rank", [None, 1, 7])
def test_it_is_that_of_the_singular_values(rng, shape, rank):
    N, C = shape
    features = rng.normal(size=(3, N, rank or C))
    if rank is not None:
        features = features @ rng.normal(size=(rank, C))
    features *= np.geomspace(1, 1e-3, C)  # directions of very different length
    found = erank(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(found, [by_svd(one) for one in features], rtol=1e-10)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_rows_that_occur_often_need_not_be_repeated(rng, shape):
    features = rng.normal(size=(2, *shape)).astype(np.float32)
    copies = rng.integers(1, 6, (2, shape[0]))
    found = erank(torch.from_numpy(features), torch.from_numpy(copies)).numpy()
    expected = [by_svd(np.repeat(one, times, axis=0)) for one, times in zip(features, copies, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "merge",
    [
        None,
        ToMe(ratios=(0.4, 0.0, 0.3, 0.2)),
        Cts(share=0.5),
        Algm(blocks=(1, 3), windows=0.5, pairs=0.3),
        Algm(threshold=0.5, blocks=(1, 3)),
        WindowsToMe(block=2, windows=0.5, ratios=(0.0, 0.2, 0.3, 0.1)),
    ],
)
def test_merged_features_count_on_every_patch(context, merge):
    recipe = Recipe(embed=64, blocks=BLOCKS, merge=merge)
    model = compress(context.model, recipe, context.saliency, context.policy).eval()
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shares = []
    with torch.inference_mode():
        found = effective_rank(model, images)
        for part in images.split(1 if recipe.adaptive else 3):
            features, tokens = model.encoder(part)
            grid = restore(features[:, SHAPE.prefix :], tokens, SHAPE.prefix).numpy()
            shares += [by_svd(one) / min(one.shape) for one in grid]
    assert found.mean == pytest.approx(np.mean(shares), rel=1e-9)
    assert found.std == pytest.approx(np.std(shares), rel=1e-6)
