"""Run the comparison as Ray tasks: find every setting, then measure every cell; what is done is not done again.

Only the driver writes results, so that workers on other machines need no shared folder; a recovery under way
is kept where its worker runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from raycomp.benchmark.conditions import Cell, Level, cells, levels
from raycomp.benchmark.operating_points import Setting, built, find, from_front, mark_of
from raycomp.benchmark.single_run import Measured, failed_row, measure_cell, unreachable
from raycomp.benchmark.timing import Timing, time_settings
from raycomp.cluster.connection import finished, prepare_worker, remote, result
from raycomp.cluster.latency_task import latency_table
from raycomp.compress.saliency import Saliency
from raycomp.config import SweepConfig
from raycomp.context import Base
from raycomp.data.samples import Samples
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.models import checkpoints
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.rows import git_commit
from raycomp.storage import AnyPath


@dataclass(frozen=True)
class Shared:
    """What every task needs."""

    base: Any
    """Reference to the `Base` in the object store."""
    samples: Any
    """Reference to training scenes drawn once; None where workers read the data set's own files."""
    folder: AnyPath
    config: SweepConfig


def find_settings(
    shared: Shared, front: Sequence[Row] | None, scores: Saliency | None, base: Base, say: Callable[[str], None]
) -> dict[Level, Setting]:
    """The setting of every level, from the folder where it was found before.

    Args:
        front: of a finished sweep, for the level `found`.
        scores: those that the sweep cuts by.

    Raises:
        UserError: for settings found with other weights or images, or a method that cannot work on the grid.
    """
    folder = shared.folder / "settings"
    wanted = levels(shared.config.benchmark, front is not None)
    known: dict[Level, Setting] = {}
    for level in wanted:
        setting = None
        if level.method == "found" and front is not None and scores is not None:
            setting = from_front(front, scores, base, level)
        elif level.method != "found":
            setting = Setting.load(folder, level, mark_of(base, level))
        if setting is not None:
            known[level] = setting
    missing = [level for level in wanted if level not in known]
    table = _latency_table(shared, say) if missing and shared.config.nvit.latency_weight else None
    task = remote(_find, shared.config, retries=2)
    waiting = {task.remote(shared.base, shared.samples, level, table): level for level in missing}
    for done in finished(waiting):
        level, setting = waiting[done], result(done)
        setting.save(folder, level, mark_of(base, level))
        known[level] = setting
        short = "" if setting.reached else f", which misses the target of {setting.target:.4g}"
        say(f"setting {len(known)}/{len(wanted)}: {level.label}: {setting.text} at {setting.gflops:.4g} GFLOPs{short}")
    return known


def measure_cells(
    shared: Shared, settings: dict[Level, Setting], store: Store, base: Base, on_row: Callable[[Row, int], None]
) -> None:
    """Measure what has no row yet; `on_row` gets every row, old and new, and how many there will be."""
    wanted = [cell for cell in cells(shared.config.benchmark, True) if cell.level in settings]
    waiting: dict[Any, Cell] = {}
    task = remote(_measure, shared.config, retries=shared.config.search.max_failures)
    done_before = {(row.label, row.seed): row for row in store.rows() if row.status == "complete"}
    for cell in wanted:
        setting, row = settings[cell.level], done_before.get((cell.level.label, cell.seed))
        if row is not None and _same(row, setting):
            on_row(row, len(wanted))
        elif not setting.reached:
            on_row(_failed(store, base, cell, setting, unreachable(setting)), len(wanted))
        else:
            arguments = (shared.base, shared.samples, cell, setting, _state(shared, cell), git_commit())
            waiting[task.remote(*arguments)] = cell
    for done in finished(waiting):
        cell = waiting[done]
        try:
            found: Measured = ray.get(done)
        except RayError as error:  # its worker died more often than it is tried again
            row = _failed(store, base, cell, settings[cell.level], f"{type(error).__name__}: the worker died")
        else:
            row = found.row
            _keep(shared, base, cell, settings[cell.level], found)
            store.write(row)
            _state(shared, cell).unlink(missing_ok=True)
        on_row(row, len(wanted))


def measure_speed(shared: Shared, settings: dict[Level, Setting]) -> list[Timing]:
    """Time all settings in one worker, taking turns, with nothing else running."""
    task = remote(_time, shared.config, retries=0)
    timings: list[Timing] = result(task.remote(shared.base, {k: v for k, v in settings.items() if v.reached}))
    return timings


def _same(row: Row, setting: Setting) -> bool:
    """Whether a row is of this setting; adaptive merging may have been matched again after the recovery."""
    return bool(row.target_gflops == setting.target) and (setting.recipe.adaptive or row.recipe_id == setting.recipe.id)


def _state(shared: Shared, cell: Cell) -> AnyPath:
    return shared.folder / "states" / f"{cell.level.slug}-seed{cell.seed}.pt"


def _keep(shared: Shared, base: Base, cell: Cell, setting: Setting, found: Measured) -> None:
    """Write the first seed's pictures and model."""
    if found.pictures is not None:
        found.pictures.save(shared.folder / "pictures" / f"{cell.level.slug}.npz")
    if found.weights is not None:
        model = built(base, setting)
        model.load_state_dict({k: torch.tensor(v) for k, v in found.weights.items()}, strict=False, assign=True)
        model.encoder.sharer = None  # the policy has a file of its own
        facts = {
            "label": cell.level.label,
            "setting": found.row.setting or "",
            "recovery": str(found.row.recovery_steps),
        }
        checkpoints.save(model, shared.folder / "models" / f"{cell.level.slug}.safetensors", facts)


def _failed(store: Store, base: Base, cell: Cell, setting: Setting, problem: str) -> Row:
    row = failed_row(base, cell, setting, problem)
    store.write(row)
    return row


def _latency_table(shared: Shared, say: Callable[[str], None]) -> LatencyTable:
    """The table of NViT's latency term."""
    path, batch = shared.folder / "settings" / "latency.json", shared.config.evaluation.batch
    return latency_table(path, shared.base, shared.config, batch, merging=False, report=say)


def _find(base: Base, samples: Samples | None, level: Level, latency: LatencyTable | None) -> Setting:
    return find(base, level, prepare_worker(), latency, samples)


def _measure(
    base: Base, samples: Samples | None, cell: Cell, setting: Setting, state: AnyPath, commit: str
) -> Measured:
    return measure_cell(base, samples, cell, setting, state, prepare_worker(), commit)


def _time(base: Base, settings: dict[Level, Setting]) -> list[Timing]:
    return time_settings(base, settings, prepare_worker())
