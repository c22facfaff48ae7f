# SPDX-License-Identifier: Apache-2.0
"""Rows as MLflow shows them: parameters, metrics, and the front as a note."""

import re
from collections.abc import Sequence
from typing import Any

from raycomp import objectives
from raycomp.results.row import Row

_METRICS = (
    "gflops", "gflops_share", "predicted_ms", "rpc", "effective_rank", "latency_ms", "throughput", "params",
    "memory_mb", "file_mb", "seconds",
)  # fmt: skip


def started(row: Row) -> str:
    """Return the start of a row's trial; empty if unknown."""
    return row.started.isoformat() if row.started else ""


def note(front: Sequence[Row]) -> str:
    """Return the front as Markdown; MLflow shows it at the top of the parent run's page."""
    measured = objectives.measured()
    lines = [
        "The Pareto front: runs with `tags.on_front = 'true'`. The plot and the report are among the artifacts.",
        "",
        " | ".join(["| recipe | kind | GFLOPs | of dense", *(one.title for one in measured)]) + " |",
        "|---|---|---:|---:|" + "---:|" * len(measured),
    ]
    for row in front:
        accuracies = (f"{one.text(one.value(row))}{one.unit}" for one in measured)
        figures = " | ".join((f"{row.gflops:.4f}", f"{row.gflops_share:.1%}", *accuracies))
        lines.append(f"| `{row.recipe_id}` | {row.kind} | {figures} |")
    return "\n".join(lines)


def params(row: Row) -> dict[str, str]:
    """Return widths and merge ratios, one parameter per block, so that the UI can put each on an axis."""
    result = {"embed": str(row.embed), "precision": row.precision}
    if row.stage in ("benchmark", "refined"):
        result |= {name: str(getattr(row, name)) for name in ("operating_point", "seed", "recovery_steps")}
    for kind in ("heads", "qk", "v", "mlp", "ratios"):
        name = "merge" if kind == "ratios" else kind
        for block, value in enumerate(getattr(row, kind)):
            result[f"{name}_{block:02d}"] = f"{value:.4g}" if kind == "ratios" else str(value)
    return result | {name: f"{ratio:.4g}" for name, ratio in row.recipe.further_ratios.items()}


def metrics(row: Row, classes: Sequence[str]) -> dict[str, float]:
    """Return the measured values, without NaN."""
    result = {name: getattr(row, name) for name in (*_METRICS, *(one.name for one in objectives.measured()))}
    for name, value in zip(classes, row.class_iou, strict=False):
        result["iou_" + re.sub(r"[^\w.-]+", "_", name)] = value
    return {name: float(value) for name, value in result.items() if value is not None and value == value}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as parameters with dotted names, without unset ones."""
    result: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            result[f"{prefix}{key}"] = str(value)
    return result
