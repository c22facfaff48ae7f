# SPDX-License-Identifier: Apache-2.0
"""What single images add: sums that are the confusions, and draws that are those of a resampled evaluation."""

import numpy as np
import pytest
import torch

from raycomp.data.corruptions import VARIANTS
from raycomp.evaluate.measure import measure
from raycomp.evaluate.per_image import PerImage
from raycomp.recipe import dense
from raycomp.report.confidence import confidence
from raycomp.results.row import Row
from tests.helpers import rows
from tests.helpers.per_images import random_images


def test_it_is_the_same_after_a_round_trip():
    one = random_images(0)
    again = PerImage.unpacked(one.packed())
    for name in ("hits", "union", "variants", "sources"):
        assert (getattr(again, name) == getattr(one, name)).all()


def test_draws_are_evaluations_of_the_images_drawn():
    """Against the plain way: repeat the drawn sources' images, sum, divide."""
    one, draws = random_images(1), 5
    found = one.drawn(draws, seed=3)
    times = np.random.default_rng(3).multinomial(4, [0.25] * 4, size=draws)
    for draw in range(draws):
        values = {}
        for variant in (-1, 3, 70):
            indices = [i for i in range(12) if one.variants[i] == variant for _ in range(times[draw, one.sources[i]])]
            hits, union = one.hits[indices].sum(0), one.union[indices].sum(0)
            values[variant] = np.mean(hits / union)
        assert found[draw] == pytest.approx([values[-1], (values[3] + values[70]) / 2])


def test_every_image_once_is_the_measurement(context):
    result = measure(
        context.cut(dense(context.shape)),
        context.evalset,
        "full",
        context.config.evaluation,
        context.config.data,
        torch.device("cpu"),
    )
    images = result.per_image
    clean = images.variants == -1
    hits, union = images.hits[clean].sum(0), images.union[clean].sum(0)
    iou = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    np.testing.assert_array_equal(iou, result.class_iou)
    assert len(images.hits) == result.images
    for variant in range(len(VARIANTS)):
        own = images.variants == variant
        hits, union = images.hits[own].sum(0), images.union[own].sum(0)
        assert np.mean(hits[union > 0] / union[union > 0]) == pytest.approx(result.corrupted.reshape(-1)[variant])


def row(name: str, cost: float, images: PerImage) -> Row:
    return rows.row(recipe_id=name, gflops=cost, per_image=images.packed())


def test_intervals_hold_the_figure_and_ties_are_told():
    rng = np.random.default_rng(0)
    union = np.full((400, 3), 1000)
    variants, sources = np.repeat([-1, 5], 200), np.tile(np.arange(200), 2)

    def model(rate: float) -> PerImage:
        return PerImage(rng.binomial(1000, rate, union.shape), union, variants, sources)

    cheap, same, better = model(0.700), model(0.7002), model(0.72)
    found = confidence([row("better", 3.0, better), row("cheap", 1.0, cheap), row("same", 2.0, same)])
    assert found["cheap"].tie is None
    assert found["same"].tie == "cheap"
    assert found["better"].tie is None
    for name, rate in (("cheap", 0.700), ("better", 0.72)):
        for low, high in (found[name].clean, found[name].corrupted):
            assert low < rate < high
            assert high - low < 0.01
    assert confidence([rows.row(recipe_id="old", gflops=1.0)]) == {}


@pytest.mark.parametrize("images", [1, 2, 4])
def test_of_few_images_a_variant_the_interval_holds_the_figure_too(images):
    """In many draws there is none of a variant's images."""
    rng = np.random.default_rng(0)
    sources, variants = [np.arange(60)], [np.full(60, -1)]
    for variant in range(20):
        sources.append(rng.choice(60, images, replace=False))
        variants.append(np.full(images, variant))
    count = 60 + 20 * images
    hits = rng.binomial(100, rng.uniform(0.3, 0.8, (count, 4)))
    one = PerImage(hits, np.full((count, 4), 100), np.concatenate(variants), np.concatenate(sources))
    low, high = confidence([row("a", 1.0, one)])["a"].corrupted
    figure = np.mean([one.hits[one.variants == v].sum(0) / (100 * images) for v in range(20)])
    assert low < figure < high
    assert (low + high) / 2 == pytest.approx(figure)
    assert one.accuracy()[1] == pytest.approx(figure)


def test_wider_intervals_of_fewer_images():
    def width(images: int) -> float:
        rng = np.random.default_rng(0)
        rates = np.tile(rng.uniform(0.4, 0.9, (images, 1)), (2, 1))
        one = PerImage(
            rng.binomial(100, rates, (2 * images, 3)),
            np.full((2 * images, 3), 100),
            np.repeat([-1, 0], images),
            np.tile(np.arange(images), 2),
        )
        low, high = confidence([row("a", 1.0, one)])["a"].clean
        return high - low

    assert width(400) == pytest.approx(width(25) / 4, rel=0.35)  # as 1 / sqrt(images)
