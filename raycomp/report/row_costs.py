# SPDX-License-Identifier: Apache-2.0
"""Costs of measured recipes besides the one that the search minimised: parameters, time and memory."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from raycomp import footprint
from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.evaluate.latency_error import stored_table
from raycomp.results.query import completed, final_stage
from raycomp.results.row import Row
from raycomp.settings.amounts import CostName
from raycomp.shape import ModelShape
from raycomp.storage import AnyPath

_DENSE = "dense"


@dataclass(frozen=True)
class RowCost:
    """One cost of the rows of a sweep."""

    value: Callable[[Row], float]
    """In the base unit of `Amount`; infinite where it is unknown."""
    source: str
    """Where it comes from, in words."""


def row_costs(
    names: Iterable[CostName],
    rows: Sequence[Row],
    config: SweepConfig,
    shape: Callable[[], ModelShape],
    folder: AnyPath,
    speed: Path | None = None,
) -> dict[CostName, RowCost]:
    """Return costs of the rows of a sweep by name.

    Args:
        shape: Returns the shape of the sweep's model; called only if a cost needs it.
        folder: Folder of the sweep, which may have a latency table.
        speed: A file of `raycomp speed --json`, whose times replace those of the sweep.

    Raises:
        UserError: If the rows have no times, or the file is none of `raycomp speed`.
    """
    made: dict[CostName, Callable[[], RowCost]] = {
        "gflops": lambda: RowCost(lambda row: math.inf if row.gflops is None else row.gflops, "counted"),
        "params": lambda: RowCost(partial(_params, shape()), "counted"),
        "memory": lambda: _memory(config, shape()),
        "file": lambda: _file(shape()),
        "ms": lambda: _times(rows, folder) if speed is None else _timed(speed, rows),
    }
    return {name: made[name]() for name in names}


def _params(shape: ModelShape, row: Row) -> float:
    return footprint.params(shape, row.recipe) if row.params is None else row.params


def _memory(config: SweepConfig, shape: ModelShape) -> RowCost:
    batch, dtype, image = config.search.latency_batch, config.evaluation.dtype, config.data.window_for(shape)

    def value(row: Row) -> float:
        tokens = row.tokens if row.recipe.adaptive else None
        return footprint.memory(shape, row.recipe, image, batch, dtype, tokens).total

    return RowCost(value, f"weights and peak activations in {dtype} at batch {batch}, estimated")


def _file(shape: ModelShape) -> RowCost:
    return RowCost(lambda row: footprint.file_size(shape, row.recipe), "weights of the exported model")


def _times(rows: Sequence[Row], folder: AnyPath) -> RowCost:
    """Return the times of a sweep: by its latency table, as it was timed on an idle device; else measured in trials."""
    measured = completed(rows, final_stage(rows))
    if measured and all(row.predicted_ms is not None for row in measured):
        sources = "predicted by the sweep's latency table", stored_table(folder)
        return RowCost(lambda row: _known(row.predicted_ms), ": ".join(filter(None, sources)))
    if all(row.latency_ms is None for row in measured):
        advice = "time its front with `raycomp speed NAME --json > speed.json` and add --speed speed.json"
        raise UserError(f"--max-ms: the sweep has no times of single recipes; {advice}")
    return RowCost(lambda row: _known(row.latency_ms), "measured at batch 1 while other trials ran")


def _known(value: float | None) -> float:
    return math.inf if value is None else value


def _timed(path: Path, rows: Sequence[Row]) -> RowCost:
    """Return the times in a file of `raycomp speed --json`, of its first runtime and batch size."""
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text())
        first = entries[0]
        chosen = [one for one in entries if (one["runtime"], one["batch"]) == (first["runtime"], first["batch"])]
        times = {str(one["model"]): float(one["latency_ms"]) for one in chosen}
        setting = f"{first['runtime']} at batch {first['batch']}, {first['setting']}"
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        expected = "expected what `raycomp speed NAME --json` prints"
        raise UserError(f"--speed {path}: {expected} ({type(error).__name__})") from None
    if not any(row.recipe_id in times for row in rows):
        raise UserError(
            f"--speed {path}: has no recipe of the sweep; `raycomp speed NAME --json` times those of its front"
        )

    def value(row: Row) -> float:
        return times.get(_DENSE if row.is_dense else row.recipe_id, math.inf)

    return RowCost(value, f"{setting} ({path})")
