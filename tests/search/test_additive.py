# SPDX-License-Identifier: Apache-2.0
"""The additive model: exact posteriors, gradients, and a known function learned from few trials."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from raycomp.search.additive import AdditiveModel, Dense
from raycomp.search.features import Features
from raycomp.search.knowledge import Knowledge, Observation
from raycomp.search.surrogate import max_steps
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY

SPACE = Space(
    TINY,
    SpaceConfig(
        embed=WidthRange(low=16),
        heads=WidthRange(low=1, step=1, drop=True),
        mlp=WidthRange(low=32, step=16, drop=True),
        merge_step=1 / 16,
    ),
    TINY.image,
)
DENSE = 0.7
EASIER = 0.08  # probe images give this much more, which is several times the margin above the dense accuracy


def drawn(count, seed):
    dimensions = list(SPACE.dimensions.values())
    rng = np.random.default_rng(seed)
    return (rng.random((count, 1)) * rng.random((count, len(dimensions))) * (max_steps(dimensions) + 1)).astype(int)


def truth(described, seed=0):
    """Accuracies whose loss is a product over the features."""
    weights = np.random.default_rng(seed).gamma(1.0, 0.1, described.features.shape[1])
    return DENSE + 0.02 - 0.02 * np.exp(described.features @ weights)


@pytest.fixture(scope="module")
def fitted():
    features = Features(SPACE)
    trials = features(np.concatenate([np.zeros((1, len(features.limits)), int), drawn(60, 1)]))
    probes = np.arange(61) % 3 == 1
    accuracy = truth(trials) + (EASIER + 0.004) * probes
    model = AdditiveModel(features.groups)
    model.condition(trials, probes, accuracy, Dense(DENSE, DENSE + EASIER))
    return features, trials, probes, accuracy, model


def test_a_known_function_is_learned_from_sixty_trials(fitted):
    features, *_, model = fitted
    held_out = features(drawn(200, 2))
    exact = truth(held_out)
    error = np.abs(model.expected(held_out) - exact)
    assert np.mean(error**2) < 0.04 * exact.var()
    low, high = model.interval(held_out)
    assert np.mean((low <= exact) & (exact <= high)) > 0.8
    assert np.all(low <= high)


def test_probes_alone_rank_recipes_however_easy_their_images_are():
    knowledge = Knowledge(SPACE)
    points = np.concatenate([np.zeros((1, len(knowledge.features.limits)), int), drawn(60, 1)])
    mious = truth(knowledge.features(points))
    probes = [Observation(tuple(p), True, (m + EASIER,) * 2) for p, m in zip(points.tolist(), mious, strict=True)]
    knowledge.learn([Observation(tuple(points[0].tolist()), False, (DENSE,) * 2), *probes])
    held_out = knowledge.features(drawn(200, 2))
    exact = truth(held_out)
    assert np.mean((knowledge.expected(held_out) - exact) ** 2) < 0.04 * exact.var()


def test_the_posterior_is_that_of_a_gaussian_process(fitted):
    features, trials, probes, accuracy, model = fitted
    logs = model._logs.numpy()
    scales = np.exp(2 * logs[: model._count])[model._group.numpy()]
    rest, length, probe, offset, noise = np.exp(2 * logs[model._count :])

    def kernel(a, b, both):
        distance = ((a.places[:, None] - b.places[None]) ** 2).sum(-1)
        shared = (a.features * scales) @ b.features.T + rest * np.exp(-distance / 2 / length)
        return shared * (1 + probe * both) + offset * both

    both = np.outer(probes, probes).astype(float)
    covariance = kernel(trials, trials, both) + noise * np.eye(len(probes))
    target = -np.log(DENSE + EASIER * probes + 0.02 - accuracy)
    points = features(drawn(20, 3))
    cross = kernel(points, trials, np.zeros((20, len(probes))))
    middle = -np.log(0.02) + cross @ np.linalg.solve(covariance, target + np.log(0.02))
    np.testing.assert_allclose(model.expected(points), DENSE + 0.02 - np.exp(-middle), atol=1e-8)
    own = np.diag(kernel(points, points, np.zeros((20, 20))))
    deviation = np.sqrt(own - np.einsum("ct,tc->c", cross, np.linalg.solve(covariance, cross.T)))
    low, _ = model.interval(points, z=1.0)
    np.testing.assert_allclose(low, DENSE + 0.02 - np.exp(-(middle - deviation)), atol=1e-6)


def test_gradients_of_the_hyperparameters_are_exact(fitted):
    *_, model = fitted
    start = model._prior.numpy() + 0.1
    error = check_grad(lambda x: model._loss(x)[0], lambda x: model._loss(x)[1], start)
    assert error < 1e-3 * np.linalg.norm(model._loss(start)[1])


def test_draws_have_the_mean_and_the_spread_of_the_posterior(fitted):
    features, *_, model = fitted
    points = features(drawn(5, 4))
    rng = np.random.default_rng(0)
    values = np.array([-np.log(DENSE + 0.02 - model.drawn(rng, 1.0)(points)) for _ in range(1000)])
    expected = -np.log(DENSE + 0.02 - model.expected(points))
    assert np.all(np.abs(values.mean(0) - expected) < 4 * values.std(0) / len(values) ** 0.5)
    low, high = model.interval(points, z=1.0)
    deviation = (np.log(DENSE + 0.02 - low) - np.log(DENSE + 0.02 - high)) / 2
    np.testing.assert_allclose(values.std(0), deviation, rtol=0.15)
    np.testing.assert_allclose(model.drawn(rng, 0.0)(points), model.expected(points))


def test_the_best_recipe_keeps_its_limit_and_is_not_one_that_is_taken():
    knowledge = Knowledge(SPACE)
    points = np.concatenate([np.zeros((1, len(knowledge.features.limits)), int), drawn(60, 1)])
    mious = truth(knowledge.features(points))
    knowledge.learn([Observation(tuple(p), False, (m, m)) for p, m in zip(points.tolist(), mious, strict=True)])
    budget, taken = 0.5 * SPACE.gflops({}), set()
    found = []
    for _ in range(4):
        best = knowledge.best(knowledge.expected, budget, lambda point: point in taken)
        assert best is not None
        assert best not in taken
        assert SPACE.gflops(knowledge.params(best)) <= budget
        taken.add(best)
        found.append(truth(knowledge.features(np.array([best])))[0])
    within = [m for p, m in zip(points, mious, strict=True) if SPACE.gflops(knowledge.params(p)) <= budget]
    assert max(found) > max(within)
