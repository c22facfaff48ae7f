# SPDX-License-Identifier: Apache-2.0
"""Find the best recipe within limits on its cost, by local search over the grid of a space.

The value of a recipe is a model's prediction, cheap but not additive, and its cost is exact, a product of widths and
token counts. From each start, the best change is made until none improves: one dimension by a few steps, or two at
once, of which one usually gives the cost that the other takes. A thorough search then tries three at once. Effects of
two moves are first added up; only the most promising pairs are evaluated.

Legend: C points, D dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Evaluate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps points (C, D) to their values (C,), and to their loads (C,): cost relative to its limit, at most 1 within it."""

_MOVES = (-4, -2, -1, 1, 2, 4)
_SINGLES, _PAIRS = 8, 32  # moves evaluated exactly in each iteration
_SLACK = 0.02  # of load: sums of two moves are estimates
_ITERATIONS = 300
_LEAST_GAIN = 1e-6
_KICKS = 12  # first moves of three


def solve(
    evaluate: Evaluate, maxima: np.ndarray, starts: Sequence[np.ndarray], thorough: bool = True
) -> tuple[np.ndarray, float]:
    """Return the best point (D,) within the limits that local search reaches, and its value.

    Args:
        maxima: (D,) maximum of each dimension; its minimum is 0.
        starts: points to start from, at least one of them within the limits.
        thorough: also try moves of three dimensions, which takes several times as long.
    """
    found = [_climb(evaluate, maxima, np.array(start), thorough) for start in starts]
    return max((one for one in found if one is not None), key=lambda one: one[1])


@dataclass(frozen=True, slots=True)
class _State:
    """A point (D,), its value and its load."""

    point: np.ndarray
    value: float
    load: float


def _climb(
    evaluate: Evaluate, maxima: np.ndarray, start: np.ndarray, thorough: bool
) -> tuple[np.ndarray, float] | None:
    """Improve one point; None if it exceeds a limit."""
    at = _states(evaluate, start[None])[0]
    if at.load > 1:
        return None
    for _ in range(_ITERATIONS):
        moved, values, loads = _around(evaluate, maxima, at)
        better = _improved(evaluate, at, moved, values, loads, at.value)
        if better is None and thorough:  # three moves: the most promising first ones, each followed by the best pair
            order = np.argsort(at.value - values, kind="stable")[:_KICKS]
            kicked = [_State(moved[index], float(values[index]), float(loads[index])) for index in order]
            found = [_improved(evaluate, one, *_around(evaluate, maxima, one), at.value) for one in kicked]
            better = max((one for one in found if one is not None), key=lambda one: one.value, default=None)
        if better is None:
            break
        at = better
    return at.point, at.value


def _states(evaluate: Evaluate, points: np.ndarray) -> list[_State]:
    values, loads = evaluate(points)
    return [_State(*one) for one in zip(points, values.tolist(), loads.tolist(), strict=True)]


def _around(evaluate: Evaluate, maxima: np.ndarray, at: _State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the neighbours of a point, their values and their loads."""
    moved = neighbours(at.point, maxima)
    return moved, *evaluate(moved)


def _improved(
    evaluate: Evaluate, at: _State, moved: np.ndarray, values: np.ndarray, loads: np.ndarray, least: float
) -> _State | None:
    """Return the best point within the limits that one or two moves reach, if its value exceeds `least`."""
    tried = _promising(at.point, moved, values - at.value, loads - at.load, 1 - at.load, least - at.value)
    if not len(tried):
        return None
    best = max((one for one in _states(evaluate, tried) if one.load <= 1), key=lambda one: one.value, default=None)
    return None if best is None or best.value <= least + _LEAST_GAIN else best


def neighbours(point: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Return all points (C, D) that differ in one dimension, by one of `_MOVES`."""
    D = len(point)
    moved = np.repeat(point[None], D * len(_MOVES), axis=0)
    dimension, move = np.repeat(np.arange(D), len(_MOVES)), np.tile(_MOVES, D)
    rows = np.arange(len(moved))
    moved[rows, dimension] += move
    inside = (moved[rows, dimension] >= 0) & (moved[rows, dimension] <= maxima[dimension])
    return moved[inside]


def _promising(
    point: np.ndarray, moved: np.ndarray, gains: np.ndarray, loads: np.ndarray, room: float, least: float
) -> np.ndarray:
    """Return the moves, and pairs of moves, with the largest gains (C, D), more than `least`, within the room left.

    Args:
        moved: (N, D) points one move away.
        gains, loads: (N,) change of value and of load by each move; those of pairs are estimated by their sums.
    """
    single = np.flatnonzero((loads <= room) & (gains > least))
    single = single[np.argsort(-gains[single], kind="stable")[:_SINGLES]]
    dimension = (moved != point).argmax(axis=1)
    pair_gains, pair_loads = gains[:, None] + gains, loads[:, None] + loads
    useful = (dimension[:, None] < dimension) & (pair_gains > least)
    within = pair_loads <= room
    tried = [moved[single]]
    for allowed in (useful & within, useful & ~within & (pair_loads <= room + _SLACK)):
        first, second = np.nonzero(allowed)
        best = np.argsort(-pair_gains[first, second], kind="stable")[:_PAIRS]
        tried.append(moved[first[best]] + moved[second[best]] - point)
    return np.concatenate(tried)
