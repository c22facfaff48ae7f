# SPDX-License-Identifier: Apache-2.0
"""Measure whether one driver keeps 256 workers busy, its cost per trial, and what grows with the number of trials.

    python benchmarks/scale.py                      # the driver alone: asks, rows, MLflow; reading and compacting
    python benchmarks/scale.py --actors 48 --of 256 --seconds 30    # Ray Tune with actors that sleep

Trials are synthetic: accuracy is a smooth function of the recipe. With fewer actors than workers, trials are shorter in
the same ratio, so that the driver sees as many completions per second.
"""

import argparse
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, as raycomp.cluster.connection does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
from ray import tune

from raycomp import config as configs
from raycomp.cluster.connection import connect
from raycomp.config import SweepConfig
from raycomp.report import tables
from raycomp.report.progress import SweepProgress
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.results.tracking import Tracker, default_uri
from raycomp.search.proposal import Proposal
from raycomp.search.proposer import Proposer
from raycomp.search.study_replica import StudyReplica, study_uri
from raycomp.space import Space
from tests.helpers.trials import fake_row

_SPACE = Path(__file__).resolve().parents[1] / "search_spaces" / "streetscenes_vit_micro.yaml"
_CLASSES = [f"class {index}" for index in range(11)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--actors", type=int, default=0, help="run Ray Tune with this many sleeping actors")
    parser.add_argument("--of", type=int, default=256, help="number of workers that the actors represent")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of a trial of one worker")
    parser.add_argument("--rounds", type=int, default=12, help="trials per actor")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raycomp-scale-") as folder:
        if given.actors:
            with_tune(Path(folder), given.actors, given.of, given.seconds, given.rounds)
        else:
            driver_alone(Path(folder), given.trials)


def loaded(trials: int, workers: int = 1) -> tuple[SweepConfig, Space]:
    config = configs.load(_SPACE, trials=trials, workers=workers)
    assert config.model.shape is not None
    return config, Space.of(config, config.model.shape)


def made_up(space: Space, proposal: Proposal) -> Row:
    """Return a row as large as a real one."""
    row = fake_row(space.shape, proposal)
    if row.status != "complete":
        return row
    return replace(row, class_iou=[0.5] * 11, corrupted_by_variant=[0.4] * 80, seconds=30.0, params=10**6)


T = TypeVar("T")


class Stopwatch:
    """Measures the duration of steps by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, step: Callable[..., T], *arguments: object) -> T:
        began = time.perf_counter()
        value = step(*arguments)
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        return value

    def ms(self, name: str, last: int) -> float:
        """Return the mean milliseconds of the last runs of a step."""
        seconds = self.seconds[name][-last:]
        return 1000 * sum(seconds) / len(seconds)


def silent(line: str) -> None:
    """Say nothing."""


def driver_alone(folder: Path, trials: int) -> None:
    """Time what the driver does for every trial: ask, write, read back, tell, progress."""
    config, space = loaded(trials)
    store, proposer, watch = Store(folder / "sweep"), Proposer(space, config.search, []), Stopwatch()
    store.open(config)
    milestones = sorted({100, 1000, trials})
    with SweepProgress(proposer, tables.console()) as progress:
        progress.say = silent  # type: ignore[method-assign]
        for count in range(1, trials + 1):
            proposal = watch.time("ask", proposer.next)
            if proposal is None:
                break
            row = made_up(space, proposal)
            watch.time("write", store.write, row)
            watch.time("read", store.read, *proposal.key)
            watch.time("tell", proposer.tell, row)
            watch.time("progress", progress.row, row)
            if count in milestones:
                steps = ", ".join(f"{name} {watch.ms(name, 50):.1f}" for name in watch.seconds)
                print(f"at {count} trials, ms per step: {steps}", flush=True)
    rows = reading(store)
    restart(space, config, rows)
    replicas(folder, config, proposer, rows[: min(len(rows), 300)])
    print(f"peak memory of the driver {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def reading(store: Store) -> list[Row]:
    """Time reading the rows from thousands of files, and from one."""
    began = time.perf_counter()
    rows = store.rows()
    many = time.perf_counter() - began
    store.lock.drop()
    began = time.perf_counter()
    files = store.compact()
    compacting, began = time.perf_counter() - began, time.perf_counter()
    store.rows()
    one = time.perf_counter() - began
    print(f"reading {len(rows)} rows: {files} files {many:.2f} s, compacted {one:.2f} s: {many / one:.1f}x", end="")
    print(f" (compacting takes {compacting:.2f} s)")
    return rows


def restart(space: Space, config: SweepConfig, rows: list[Row]) -> None:
    """Time rebuilding a proposer from the rows, as a resumed sweep does."""
    began = time.perf_counter()
    Proposer(space, config.search, rows)
    print(f"resuming from {len(rows)} rows: {time.perf_counter() - began:.2f} s until the next ask")


def replicas(folder: Path, config: SweepConfig, proposer: Proposer, rows: list[Row]) -> None:
    """Time logging a row to each replica."""
    uri = study_uri(None, folder)
    assert uri is not None
    for name, replica in (
        ("MLflow child (SQLite)", Tracker(default_uri(str(folder)), folder / "sweep", config, _CLASSES, print)),
        ("Optuna trial (journal)", StudyReplica(uri, "scale", proposer.space, print)),
    ):
        replica.connect()
        began, cpu = time.perf_counter(), time.thread_time()
        for row in rows:
            replica.write(row)
        wall, cpu = time.perf_counter() - began, time.thread_time() - cpu
        print(f"{name}: {1000 * wall / len(rows):.1f} ms per row, of which {1000 * cpu / len(rows):.1f} ms CPU")


class Sleeper(tune.Trainable):
    """A worker that sleeps, then writes a row."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], context: object, samples: object, folder: Path, commit: str
    ) -> None:
        del samples, commit
        self._store, self._space, self._seconds = Store(folder), context.space, context.seconds  # type: ignore[attr-defined]
        self._log = context.log  # type: ignore[attr-defined]
        self.reset_config(config)

    def step(self) -> dict[str, bool]:
        began = time.time()
        time.sleep(self._seconds)
        self._store.write(made_up(self._space, self._proposal))
        with (self._log / f"{os.getpid()}").open("a") as file:
            file.write(f"{began} {time.time()}\n")
        return {"done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._proposal: Proposal = new_config["proposal"]
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing."""


def with_tune(folder: Path, actors: int, workers: int, seconds: float, rounds: int) -> None:
    """Run the loop of a sweep with sleeping actors, and print how busy they are."""
    from raycomp.search.sweep import run_sweep

    config, space = loaded(actors * rounds, actors)
    store, proposer = Store(folder / "sweep"), Proposer(space, config.search, [])
    store.open(config)
    (folder / "log").mkdir()
    shorter = seconds * actors / workers
    ray.init("local", num_cpus=actors, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    connect()
    context = SimpleNamespace(config=config, space=space, seconds=shorter, log=folder / "log")
    tracker = Tracker(default_uri(str(folder)), folder / "sweep", config, _CLASSES, print)
    with SweepProgress(proposer, tables.console()) as progress:
        progress.say = silent  # type: ignore[method-assign]

        def on_row(row: Row) -> None:
            tracker.log(row)
            progress.row(row)

        cpu = time.process_time()
        run_sweep(context, None, store, proposer, on_row, Sleeper)  # type: ignore[arg-type]
        cpu = time.process_time() - cpu
    ray.shutdown()
    report(folder / "log", shorter, actors, workers, seconds, len(proposer.rows), cpu)
    tracker.finish([], finished=True)


def report(log: Path, shorter: float, actors: int, workers: int, seconds: float, rows: int, cpu: float) -> None:
    """Print how long a worker waits for its next trial once all are running."""
    actors_spans = [
        [tuple(map(float, line.split())) for line in path.read_text().splitlines()] for path in log.iterdir()
    ]
    spans = sorted(span for one in actors_spans for span in one)
    # From when all actors run (they start two at a time) until the end, when workers wait for each other.
    middle, last = spans[len(spans) // 2][0], spans[9 * len(spans) // 10 - actors][0]
    rate = sum(middle <= end < last for _, end in spans) / (last - middle)
    pairs = [pair for one in actors_spans for pair in pairwise(one)]
    gaps = sorted(after[0] - before[1] for before, after in pairs if middle <= after[0] < last)
    gap, p95 = sum(gaps) / len(gaps), gaps[-1 - len(gaps) // 20]
    represented = f"{workers} workers with trials of {seconds:g} s: {workers / (seconds + gap):.1f}"
    print(f"{actors} actors, trials of {shorter:.2f} s: {rate:.1f} completions/s ({represented})")
    print(f"a worker waits {1000 * gap:.0f} ms for its next trial (95th percentile {1000 * p95:.0f} ms): ", end="")
    print(f"busy {seconds / (seconds + gap):.1%} with trials of {seconds:g} s")
    print(f"{rows} rows; {1000 * cpu / rows:.0f} ms of driver CPU per row, including logging; ", end="")
    print(f"peak memory of the driver {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
