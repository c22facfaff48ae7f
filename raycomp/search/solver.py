# SPDX-License-Identifier: Apache-2.0
"""Find the best recipe within limits on its cost, by local search over the grid of a space.

The value of a recipe is a model's prediction, cheap but not additive, and its cost is exact, a product of widths and
token counts. From each start, the best move is made until none improves: one dimension by a few steps, or two
dimensions at once, of which one usually gives the cost that the other takes. Effects of two moves are first added up;
only the most promising pairs are evaluated.

Legend: C points, D dimensions.
"""

from collections.abc import Callable, Sequence

import numpy as np

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps points (C, D) to their values (C,), and to their loads (C,): cost relative to its limit, at most 1 within it."""

_MOVES = (-4, -2, -1, 1, 2, 4)
_SINGLES, _PAIRS = 4, 24  # moves evaluated exactly in each iteration
_ITERATIONS = 100
_KICKED = 2, 4  # dimensions
_LEAST_GAIN = 1e-6


def solve(evaluate: Evaluate, maxima: np.ndarray, starts: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the best point (D,) within the limits that local search reaches, and its value.

    Args:
        maxima: (D,) maximum of each dimension; its minimum is 0.
        starts: points to start from, at least one of them within the limits.
    """
    found = [_climb(evaluate, maxima, np.array(start)) for start in starts]
    return max((one for one in found if one is not None), key=lambda one: one[1])


def improved(
    evaluate: Evaluate,
    maxima: np.ndarray,
    point: np.ndarray,
    onto_limits: Callable[[np.ndarray], np.ndarray],
    kicks: int,
) -> np.ndarray:
    """Return a point (D,) that is at least as good as a solution, by iterated local search.

    A kick sets a few dimensions to random values; local search goes on from there, and its result is kept if better
    (Lourenço, Martin and Stützle, "Iterated Local Search", 2003). Kicks follow a fixed seed.

    Args:
        point: (D,) within the limits.
        onto_limits: maps a point (D,) to one near it within the limits, where that is possible.
    """
    rng, D = np.random.default_rng(0), len(point)
    value = float(evaluate(point[None])[0][0])
    for _ in range(kicks):
        moved = rng.choice(D, min(D, int(rng.integers(*_KICKED, endpoint=True))), replace=False)
        kicked = point.copy()
        kicked[moved] = rng.integers(maxima[moved], endpoint=True)
        found = _climb(evaluate, maxima, onto_limits(kicked))
        if found is not None and found[1] > value + _LEAST_GAIN:
            point, value = found
    return point


def _climb(evaluate: Evaluate, maxima: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Improve one point; None if it exceeds a limit."""
    values, loads = evaluate(point[None])
    value, load = float(values[0]), float(loads[0])
    if load > 1:
        return None
    for _ in range(_ITERATIONS):
        moved = neighbours(point, maxima)
        values, loads = evaluate(moved)
        tried = _promising(point, moved, values - value, loads - load, 1 - load)
        if not len(tried):
            break
        values, loads = evaluate(tried)
        values = np.where(loads <= 1, values, -np.inf)
        best = int(values.argmax())
        if values[best] <= value + _LEAST_GAIN:
            break
        point, value, load = tried[best], float(values[best]), float(loads[best])
    return point, value


def neighbours(point: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Return all points (C, D) that differ in one dimension, by one of `_MOVES`."""
    D = len(point)
    moved = np.repeat(point[None], D * len(_MOVES), axis=0)
    dimension, move = np.repeat(np.arange(D), len(_MOVES)), np.tile(_MOVES, D)
    rows = np.arange(len(moved))
    moved[rows, dimension] += move
    inside = (moved[rows, dimension] >= 0) & (moved[rows, dimension] <= maxima[dimension])
    return moved[inside]


def _promising(point: np.ndarray, moved: np.ndarray, gains: np.ndarray, loads: np.ndarray, room: float) -> np.ndarray:
    """Return the moves, and pairs of moves, with the largest gains (C, D) within the room left.

    Args:
        moved: (N, D) points one move away.
        gains, loads: (N,) change of value and of load by each move; those of pairs are estimated by their sums.
    """
    single = np.flatnonzero((loads <= room) & (gains > _LEAST_GAIN))
    single = single[np.argsort(-gains[single], kind="stable")[:_SINGLES]]
    dimension = (moved != point).argmax(axis=1)
    pair_gains = gains[:, None] + gains
    allowed = (loads[:, None] + loads <= room) & (dimension[:, None] < dimension) & (pair_gains > _LEAST_GAIN)
    first, second = np.nonzero(allowed)
    best = np.argsort(-pair_gains[first, second], kind="stable")[:_PAIRS]
    pairs = moved[first[best]] + moved[second[best]] - point
    return np.concatenate([moved[single], pairs])
