"""Run the comparison as Ray tasks: find every setting, then measure every cell; what is done is not done again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from raycomp.benchmark.cells import Cell, Level, cells, levels
from raycomp.benchmark.measure import failed_row, measure_cell, unreachable
from raycomp.benchmark.settings import Setting, find, from_front
from raycomp.benchmark.speed import Timing, time_settings
from raycomp.config import SweepConfig
from raycomp.data.samples import Samples
from raycomp.errors import UserError
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.base import Base, default_device
from raycomp.search.trial import git_commit


@dataclass(frozen=True)
class Shared:
    """What every task needs, in the object store."""

    base: Any
    """Reference to the `Base`."""
    samples: Any
    """Reference to training scenes drawn once; None where workers read the data set's own files."""
    folder: str
    config: SweepConfig


def find_settings(
    shared: Shared, front: Sequence[Row] | None, base: Base, say: Callable[[str], None]
) -> dict[Level, Setting]:
    """The setting of every level, from the folder where it was found before."""
    folder = Path(shared.folder) / "settings"
    wanted = levels(shared.config.benchmark, front is not None)
    known = {level: setting for level in wanted if (setting := Setting.load(folder, level)) is not None}
    for level in wanted:
        if level.method == "found" and level not in known and front is not None:
            known[level] = from_front(front, base, level)
            known[level].save(folder, level)
    missing = [level for level in wanted if level not in known]
    task = ray.remote(max_retries=2)(_find).options(**_resources(shared.config))
    waiting = {task.remote(shared.base, level, shared.folder): level for level in missing}
    for done in _finished(waiting):
        level = waiting[done]
        try:
            ray.get(done)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
        setting = Setting.load(folder, level)
        assert setting is not None
        known[level] = setting
        short = "" if setting.reached else f", which misses the target of {setting.target:.4g}"
        say(f"setting {len(known)}/{len(wanted)}: {level.label}: {setting.text} at {setting.gflops:.4g} GFLOPs{short}")
    return known


def measure_cells(
    shared: Shared, settings: dict[Level, Setting], store: Store, base: Base, on_row: Callable[[Row, int], None]
) -> None:
    """Measure what has no row yet; `on_row` gets every row, old and new, and how many there will be."""
    wanted = [cell for cell in cells(shared.config.benchmark, True) if cell.level in settings]
    total = len(wanted)
    waiting: dict[Any, Cell] = {}
    task = ray.remote(max_retries=shared.config.search.max_failures)(_measure).options(**_resources(shared.config))
    done_before = {(row["label"], row["seed"]): row for row in store.rows() if row["status"] == "complete"}
    for cell in wanted:
        setting = settings[cell.level]
        row = done_before.get((cell.level.label, cell.seed))
        if row is not None and row["recipe_id"] == setting.recipe.id:
            on_row(row, total)
        elif not setting.reached:
            on_row(_failed(store, base, cell, setting, unreachable(setting)), total)
        else:
            arguments = (shared.base, shared.samples, cell, setting, shared.folder, git_commit())
            waiting[task.remote(*arguments)] = cell
    for done in _finished(waiting):
        cell = waiting[done]
        try:
            row = ray.get(done)
        except RayError as error:  # its worker died more often than it is tried again
            row = _failed(store, base, cell, settings[cell.level], f"{type(error).__name__}: the worker died")
        on_row(row, total)


def _failed(store: Store, base: Base, cell: Cell, setting: Setting, problem: str) -> Row:
    row = failed_row(base, cell, setting, problem)
    store.write(row)
    return row


def measure_speed(shared: Shared, settings: dict[Level, Setting]) -> list[Timing]:
    """Time all settings in one worker, taking turns, with nothing else running."""
    task = ray.remote(_time).options(**_resources(shared.config))
    timings: list[Timing] = ray.get(task.remote(shared.base, {k: v for k, v in settings.items() if v.reached}))
    return timings


def _resources(config: SweepConfig) -> dict[str, float]:
    return {"num_cpus": 1, "num_gpus": config.search.gpus_per_trial}


def _finished(waiting: dict[Any, Any]) -> Iterator[Any]:
    left = list(waiting)
    while left:
        done, left = ray.wait(left, num_returns=1)
        yield from done


def _find(base: Base, level: Level, folder: str) -> None:
    torch.set_num_threads(1)
    settings = Path(folder) / "settings"
    find(base, level, default_device(), settings).save(settings, level)


def _measure(base: Base, samples: Samples | None, cell: Cell, setting: Setting, folder: str, commit: str) -> Row:
    torch.set_num_threads(1)
    row = measure_cell(base, samples, cell, setting, Path(folder), default_device(), commit)
    Store(Path(folder)).write(row)
    return row


def _time(base: Base, settings: dict[Level, Setting]) -> list[Timing]:
    torch.set_num_threads(1)
    return time_settings(base, settings, default_device())
