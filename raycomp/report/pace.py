# SPDX-License-Identifier: Apache-2.0
"""How many trials of a sweep run at once, and how long it takes to its end, from its rows alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from raycomp.config import SweepConfig
from raycomp.results.query import for_full_evaluation
from raycomp.results.row import Row
from raycomp.search.schedule import trials_spent

_LATEST = 40  # rows that tell the pace
_FEWEST = 3  # rows without which the pace is unknown


class _Span(NamedTuple):
    """When a trial ran."""

    row: Row
    begun: datetime
    ended: datetime


def workers(rows: Sequence[Row]) -> int:
    """Return how many of the latest trials ran at once."""
    return _at_once(_latest(rows))


def seconds_left(config: SweepConfig, rows: Sequence[Row]) -> float | None:
    """Return the seconds until a running sweep ends, at the pace of its latest rows; None with too few rows to
    estimate it.

    The full evaluations that follow the trials are not counted before the first of them.
    """
    spans = _latest(rows)
    if spans and spans[-1].row.stage == "full":
        done = {row.recipe_id for row in rows if row.stage == "full"}
        left = float(sum(row.recipe_id not in done for row in for_full_evaluation(rows)))
        spans = [span for span in spans if span.row.stage == "full"]
        amount = float(len(spans))
    else:
        left = max(0.0, config.search.trials - trials_spent(config, rows))
        amount = trials_spent(config, [span.row for span in spans])
    if len(spans) < _FEWEST or not amount:
        return None
    busy = sum((span.ended - span.begun).total_seconds() for span in spans)  # so that a pause does not count
    return left * busy / _at_once(spans) / amount


def _at_once(spans: Sequence[_Span]) -> int:
    return max((sum(one.begun <= start.begun < one.ended for one in spans) for start in spans), default=0)


def _latest(rows: Sequence[Row]) -> list[_Span]:
    """Return the trials that ended last, where their times are known."""
    spans = [_Span(row, row.started, row.ended) for row in rows if row.started is not None and row.ended is not None]
    return sorted(spans, key=lambda span: span.ended)[-_LATEST:]
