# SPDX-License-Identifier: Apache-2.0
"""What of a sweep's rows is nothing to go on with."""

from dataclasses import replace

import pytest

from raycomp.errors import UserError
from raycomp.recipe import dense
from raycomp.results.query import check_measured
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from tests.conftest import TINY
from tests.helpers.trials import fake_row


def row(origin: str, status: str, stage: str = "search") -> Row:
    return replace(
        fake_row(TINY, Proposal(0, stage, origin, "", dense(TINY)), status), error="RuntimeError: no memory\nat"
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], ""),
        ([("reference", "complete")], ""),
        ([("reference", "complete"), ("baseline", "failed"), ("proposed", "complete")], ""),
        ([("reference", "complete"), ("baseline", "failed"), ("proposed", "stopped")], ""),
        (
            [("reference", "complete"), ("baseline", "failed"), ("proposed", "failed")],
            "no recipe could be measured (2 of 2 failed); first error: RuntimeError: no memory",
        ),
        ([("baseline", "failed")], "no recipe could be measured (1 of 1 failed); first error: RuntimeError: no memory"),
        (
            [("reference", "failed"), ("known", "complete")],
            "the dense model could not be measured: RuntimeError: no memory",
        ),
        ([("dense", "failed"), ("tome", "complete")], "the dense model could not be measured: RuntimeError: no memory"),
    ],
)
def test_a_sweep_in_which_nothing_was_measured_says_why(found, said):
    rows = [row(*one) for one in found]
    if not said:
        check_measured(rows)
        return
    with pytest.raises(UserError) as refused:
        check_measured(rows)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)
