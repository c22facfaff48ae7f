# SPDX-License-Identifier: Apache-2.0
"""Fronts and hypervolumes against hand-made answers."""

import itertools

import pytest

from raycomp.results.pareto import front, hypervolume, most_useful
from raycomp.results.row import Row
from tests.helpers import rows as made


def row(clean: float, corrupted: float, gflops: float) -> Row:
    return made.row(clean_miou=clean, corrupted_miou=corrupted, gflops=gflops)


def test_front_keeps_what_nothing_dominates():
    rows = [row(0.7, 0.5, 10), row(0.6, 0.6, 10), row(0.6, 0.5, 12), row(0.5, 0.4, 5), row(0.5, 0.4, 6)]
    assert front(rows) == [rows[3], rows[0], rows[1]]
    assert front([]) == []


def test_front_equals_brute_force(rng):
    rows = [row(*(float(v) for v in rng.random(3))) for _ in range(40)]

    def dominates(a: Row, b: Row) -> bool:
        better = (
            a.clean_miou >= b.clean_miou,
            a.corrupted_miou >= b.corrupted_miou,
            a.gflops <= b.gflops,
        )
        return all(better) and a != b

    expected = [r for r in rows if not any(dominates(other, r) for other in rows)]
    assert front(rows) == sorted(expected, key=lambda r: r.gflops)


def test_hypervolume_of_boxes():
    a, b = row(0.8, 0.5, 4.0), row(0.5, 0.7, 2.0)
    assert hypervolume([a], 10.0) == pytest.approx(0.8 * 0.5 * 0.6)
    both = 0.8 * 0.5 * 0.6 + 0.5 * 0.7 * 0.8 - 0.5 * 0.5 * 0.6
    assert hypervolume([a, b], 10.0) == pytest.approx(both)
    assert hypervolume([], 10.0) == 0


def test_most_useful_drops_the_smallest_loss_first(rng):
    rows = front([row(*(float(v) for v in rng.random(3))) for _ in range(30)])
    kept = most_useful(rows, len(rows) - 1, 1.0)
    best = max(itertools.combinations(rows, len(rows) - 1), key=lambda part: hypervolume(list(part), 1.0))
    assert hypervolume(kept, 1.0) == pytest.approx(hypervolume(list(best), 1.0))
