# SPDX-License-Identifier: Apache-2.0
"""The solver against all points of small grids, and against a mixed-integer program on larger ones."""

from itertools import product

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from raycomp.search.solver import neighbours, solve


def random_problem(rng, dimensions, top):
    """Losses that grow with compression, convex or not, and savings that shrink with each other."""
    maxima = rng.integers(1, top + 1, dimensions)
    weight, power = rng.gamma(1.0, 1.0, dimensions), rng.uniform(0.7, 2.5, dimensions)
    saving = rng.uniform(0.1, 1.0, dimensions)

    def evaluate(points):
        share = points / maxima
        return -(weight * share**power).sum(1), np.prod(1 - 0.5 * saving * share, axis=1) / limit

    limit = 1.0
    limit = evaluate(maxima[None])[1][0] ** 0.5
    return maxima, evaluate


@pytest.mark.parametrize("seed", range(12))
def test_small_grids_are_solved_as_well_as_by_trying_all_points(seed):
    rng = np.random.default_rng(seed)
    maxima, evaluate = random_problem(rng, 5, 4)
    points = np.array(list(product(*(range(m + 1) for m in maxima))))
    values, loads = evaluate(points)
    best = values[loads <= 1].max()
    point, value = solve(evaluate, maxima, [maxima, points[loads <= 1][0]])
    assert evaluate(point[None])[1][0] <= 1
    assert value == evaluate(point[None])[0][0]
    spread = best - values[loads <= 1].min()
    assert value >= best - 0.01 * spread


@pytest.mark.parametrize("seed", range(4))
def test_additive_problems_come_within_a_hundredth_of_the_optimum_of_a_mixed_integer_program(seed):
    rng = np.random.default_rng(100 + seed)
    D, top = 40, 12
    loss = np.cumsum(np.sort(rng.gamma(1.0, 1.0, (D, top)), axis=1), axis=1)  # convex
    loss = np.hstack([np.zeros((D, 1)), loss])
    cost = np.linspace(1, 0.2, top + 1) * rng.uniform(0.5, 2.0, (D, 1))
    limit, maxima = 0.55 * cost[:, 0].sum(), np.full(D, top)

    def evaluate(points):
        rows = np.arange(D)
        return -loss[rows, points].sum(1), cost[rows, points].sum(1) / limit

    one_each = np.kron(np.eye(D), np.ones(top + 1))
    constraints = [LinearConstraint(one_each, 1, 1), LinearConstraint(cost.ravel()[None], -np.inf, limit)]
    optimum = milp(loss.ravel(), constraints=constraints, integrality=np.ones(D * (top + 1)), bounds=Bounds(0, 1))
    assert optimum.success
    _, value = solve(evaluate, maxima, [maxima])
    assert optimum.fun <= -value + 1e-9
    assert -value <= 1.01 * optimum.fun


def test_a_start_over_the_limit_is_left_out():
    evaluate = lambda points: (-points.sum(1).astype(float), 2.0 - points.sum(1) / 2)  # noqa: E731
    point, value = solve(evaluate, np.array([4, 4]), [np.array([0, 0]), np.array([4, 4])])
    assert (point.sum(), value) == (2, -2.0)


def test_neighbours_differ_in_one_dimension_and_stay_inside():
    near = neighbours(np.array([0, 3]), np.array([1, 3]))
    assert sorted(map(tuple, near.tolist())) == [(0, 1), (0, 2), (1, 3)]
