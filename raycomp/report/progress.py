# SPDX-License-Identifier: Apache-2.0
"""Progress of a sweep: one updating line in a terminal, plain lines elsewhere."""

import time
from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from raycomp import objectives
from raycomp.report.figures import duration
from raycomp.results.pareto import front, hypervolume
from raycomp.results.query import counted
from raycomp.results.row import Row
from raycomp.results.steering import Request
from raycomp.search.proposer import Proposer

_REQUESTS: dict[Request, str] = {
    "": "going on",
    "pause": "paused: no more trials start until raycomp resume",
    "stop": "stopping: the running trials end, and no more start",
}


class SweepProgress:
    """Counts of trials by outcome, hypervolume, and time left."""

    def __init__(self, proposer: Proposer, console: Console) -> None:
        self._proposer, self._console = proposer, console
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        self._statuses, self._measured = Counter[str](), len(proposer.search_rows())
        self._front = front(proposer.search_rows())
        self._origins = Counter(row.origin for row in proposer.rows.values() if row.stage != "full")
        self._stage, self._stage_rows = "", 0
        self._paced = 0.0  # trials of the stage after its first row
        self._stage_first = 0.0  # time of the stage's first row; the time before it says nothing about the pace

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self.say("starting workers")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def row(self, row: Row) -> None:
        """Count a finished row and show the progress."""
        stage = "full" if row.stage == "full" else "search"
        trials = 1.0 if stage == "full" else self._proposer.trials_of(row.stage)
        if stage != self._stage:
            self._stage, self._stage_rows, self._paced, self._stage_first = stage, 0, -trials, time.monotonic()
        self._stage_rows += 1
        self._paced += trials
        self._statuses[row.status] += 1
        self._origins[row.origin] += row.stage != "full"
        if row.stage == "search" and row.status == "complete" and row.origin != "reference":
            self._measured += 1
            self._front = front([*self._front, row])
        if row.status == "failed":
            self._console.print(f"trial {row.recipe_id} failed: {row.error}", markup=False, style="red")
        self.say(self._line(row))

    def request(self, request: Request) -> None:
        """Show what was asked of the sweep."""
        if not request:
            self._stage = ""  # the time of the pause says nothing about the pace
        self.say(_REQUESTS[request])

    def say(self, line: str) -> None:
        """Show a line; in a terminal it replaces the last one."""
        if self._live is not None:
            self._live.update(Text(line))
        else:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _line(self, row: Row) -> str:
        left = self._proposer.remaining
        if row.stage == "full":
            return f"full set: {row.family} {row.cost_share:.0%} done, {left} left{self._time_left(left)}"
        lost = f"stopped {self._statuses['stopped']}, failed {self._statuses['failed']}"
        last = objectives.both(row, 1) if row.status == "complete" else row.status
        return (
            f"trial {self._proposer.trials_done}/{self._proposer.config.trials}"
            f" | measured {self._measured}, {lost}, on front {len(self._front)}"
            f" | {counted(self._origins['baseline'])}, {self._origins['proposed']} proposed"
            f" | hypervolume {hypervolume(self._front, self._proposer.dense_cost):.4f}"
            f" | last {row.cost_share:.0%}: {last} | {left} left{self._time_left(left)}"
        )

    def _time_left(self, left: int) -> str:
        """Return the time left in this stage, once three rows show its pace."""
        if self._stage_rows < 3:
            return ""
        return f", about {duration(left * (time.monotonic() - self._stage_first) / self._paced)}"
