"""Recipes to choose the next one from: relatives of the front, and schedules that change evenly with depth.

A point of the grid is written as its steps of compression in each dimension, 0 for none.

Legend: D dimensions, C candidates.
"""

from collections.abc import Sequence

import numpy as np

from raycomp.space import Dimension, Params

_FRESH = 0.15  # share of candidates that are schedules of their own, not relatives of the front
_CROSSED, _MUTATED = 0.35, 0.7  # shares of the relatives; some are both
_LEFT_FULL = 0.25  # how often a schedule leaves a kind of dimension as it is
_WHOLE_KIND = 0.3  # how often a mutation moves all dimensions of a kind together
_SPREAD, _KIND_SPREAD = 0.25, 0.15  # standard deviations of moves, in shares of the range
_MOVED = 0.25  # of the geometric distribution of how many dimensions move


def steps(dimensions: Sequence[Dimension], params: Params) -> np.ndarray:
    """Steps of compression (D,) of a point."""
    return np.array([abs(params[d.name] - d.full) // d.step for d in dimensions])


def point(dimensions: Sequence[Dimension], compression: np.ndarray) -> Params:
    """The point of so many steps of compression (D,)."""
    sign = [-1 if d.full == d.high else 1 for d in dimensions]
    return {d.name: d.full + s * int(n) * d.step for d, s, n in zip(dimensions, sign, compression, strict=True)}


def most(dimensions: Sequence[Dimension]) -> np.ndarray:
    """Steps of compression (D,) of the point that compresses most."""
    return np.array([(d.high - d.low) // d.step for d in dimensions])


def candidates(dimensions: Sequence[Dimension], front: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw candidates (C, D) without repetitions, at most `count`.

    Args:
        front: (F, D), the best points known; may be empty.
    """
    # BoTorch (0.18, read) has nothing that draws these: `optimize_acqf_discrete` is given its candidates, and
    # `optimize_acqf_discrete_local_search` moves one dimension at a time, where a relative may move all of a kind, and
    # constrains by linear inequalities, which the cost of a recipe is not.
    kinds: dict[str, list[int]] = {}
    for index, dimension in enumerate(dimensions):
        kinds.setdefault(dimension.name.partition("_")[0], []).append(index)
    groups, limit = [np.array(group) for group in kinds.values()], most(dimensions)
    drawn = [
        _schedule(groups, limit, rng)
        if not len(front) or rng.random() < _FRESH
        else _relative(groups, limit, front, rng)
        for _ in range(count)
    ]
    return np.unique(np.array(drawn), axis=0)


def _schedule(groups: Sequence[np.ndarray], limit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every kind of dimension compressed by a share that goes straight from one value to another over the depth."""
    share = np.zeros(len(limit))
    for group in groups:
        if rng.random() >= _LEFT_FULL:
            first, last = rng.random(2) ** 1.5
            share[group] = np.linspace(first, last, len(group)) * rng.uniform(0.7, 1.3, len(group))
    return np.clip(np.round(share * limit), 0, limit).astype(int)


def _relative(
    groups: Sequence[np.ndarray], limit: np.ndarray, front: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A member of the front crossed with another, or moved, or both."""
    child = front[int(rng.integers(len(front)))].copy()
    way = rng.random()
    if way < _CROSSED:
        other = front[int(rng.integers(len(front)))]
        child = np.where(rng.random(len(child)) < rng.random(), other, child)
    if way > 1 - _MUTATED:
        if rng.random() < _WHOLE_KIND:
            group = groups[int(rng.integers(len(groups)))]
            child[group] += np.round(rng.normal(0, _KIND_SPREAD) * limit[group]).astype(int)
        moved = rng.choice(len(child), min(1 + rng.geometric(_MOVED), len(child)), replace=False)
        move = np.round(rng.normal(0, _SPREAD, len(moved)) * limit[moved]).astype(int)
        child[moved] += np.where(move == 0, rng.choice([-1, 1], len(moved)), move)
    return np.clip(child, 0, limit)
