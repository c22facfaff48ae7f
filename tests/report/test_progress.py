# SPDX-License-Identifier: Apache-2.0
"""One line of progress: what it says, and that it is plain where there is no terminal."""

import io

from rich.console import Console

from raycomp.report.progress import SweepProgress
from raycomp.search.proposer import Proposer
from raycomp.settings.space_and_search import SearchConfig
from tests.conftest import TINY
from tests.helpers.search import SPACE
from tests.helpers.trials import fake_row


def test_every_row_is_one_plain_line_with_the_figures():
    out = io.StringIO()
    proposer = Proposer(SPACE, SearchConfig(budget=0.7, trials=6, baselines=(0.7,)), [])
    with SweepProgress(proposer, Console(file=out, width=200)) as progress:
        for status in ("complete", "complete", "failed", "complete", "complete"):
            row = fake_row(TINY, proposer.next(), status)
            proposer.tell(row)
            progress.row(row)
    lines = out.getvalue().splitlines()
    assert lines[0] == "starting workers"
    assert any(line.startswith("trial 4/6 | measured 3, stopped 0, failed 1, on front") for line in lines)
    assert any("failed: made to fail" in line for line in lines)
    assert "| 3 baselines, 1 proposed | hypervolume 0." in lines[-1]
    assert "2 left, about" in lines[-1]
    assert "\x1b" not in out.getvalue()
