# SPDX-License-Identifier: Apache-2.0
"""A clock that jumps, forwards and back, while a sweep runs: durations are not measured by it."""

import math

import pytest

from raycomp.results.store import Store
from tests.helpers.sweeps import at_least, finish, log, logged, outcomes, start, wait_until

pytestmark = pytest.mark.faults


def test_a_clock_that_jumps_changes_nothing(place, undisturbed, tmp_path):
    offset, day = tmp_path / "offset", 24 * 3600
    offset.write_text("0")
    process = start(place, "clock", faults={"": 0.4}, RAYCOMP_CLOCK=str(offset))
    for count, jump in ((2, 2 * day), (5, -3 * day), (8, 3600)):
        wait_until(at_least(place, "clock", count), process, f"{count} rows", place / "clock.log")
        shifted = offset.with_suffix(".new")
        shifted.write_text(str(jump))
        shifted.replace(offset)
    finish(process, place, "clock")
    assert outcomes(place, "clock") == undisturbed
    assert logged(place, "clock") == sorted("-".join(key) for key in undisturbed)
    rows = Store(place / "results" / "clock").rows()
    started = [row.started.timestamp() for row in rows]
    assert max(started) - min(started) > 4 * day, "the clock did not jump"
    assert all(0 < row.seconds < 120 and math.isfinite(row.latency_ms) for row in rows)
    assert "about -" not in log(place, "clock"), "a time left that is negative"
