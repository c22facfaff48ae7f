# SPDX-License-Identifier: Apache-2.0
"""Measure the time that `make pareto` spends outside model evaluation, and its memory.

    python benchmarks/overhead.py [-- OPTIONS OF jobs/pareto_search.py]

Runs the search in a new results folder with cached evaluation data (a first run makes them). Prints the wall time, the
share of the workers' time outside building and measuring models, by the durations in the rows, and the largest drop of
the machine's available memory, which counts every process and the object store once. Run nothing else meanwhile.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from raycomp.results.row import Row
from raycomp.results.store import Store

ROOT = Path(__file__).resolve().parents[1]


def available_gib() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20


def main() -> None:
    options = sys.argv[1:]
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "jobs" / "pareto_search.py"), "--results", folder, *options]
        before, available = available_gib(), [available_gib()]
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.2):
                available.append(available_gib())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.monotonic()
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wall = time.monotonic() - started
        stop.set()
        watcher.join()
        rows = [row for path in Path(folder).glob("*/sweep.yaml") for row in Store(path.parent).rows()]
    search = [row for row in rows if row.stage == "search"]
    first, last = min(map(began, rows)), max(map(ended, rows))
    search_span = max(map(ended, search)) - first
    print(f"rows:                  {len(search)} in search, {len(rows) - len(search)} on the full set")
    print(f"wall time:             {wall:.0f} s on {workers} workers")
    print(f"outside evaluation:    {1 - evaluation(rows) / (workers * wall):.1%} of {workers} x {wall:.0f} s")
    print(f"  before first trial and after last: {wall - (last - first):.0f} s")
    print(f"  between search trials:             {1 - evaluation(search) / (workers * search_span):.1%} of the search")
    print(f"peak memory:           {before - min(available):.2f} GiB")


def began(row: Row) -> float:
    """When a trial began, in seconds since the epoch."""
    assert row.started is not None
    return row.started.timestamp()


def ended(row: Row) -> float:
    return began(row) + (row.seconds or 0.0)


def evaluation(rows: list[Row]) -> float:
    """Seconds that trials built and measured for."""
    return sum((row.seconds_build or 0.0) + (row.seconds_measure or 0.0) for row in rows)


if __name__ == "__main__":
    main()
