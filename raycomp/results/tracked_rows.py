"""What rows look like in MLflow: parameters, metrics, and the front as a note."""

import re
from collections.abc import Sequence
from typing import Any

from raycomp import objectives
from raycomp.results.row import Row

_METRICS = (
    "gflops", "gflops_share", "predicted_ms", "rpc", "effective_rank", "latency_ms", "throughput", "params", "seconds",
)  # fmt: skip


def started(row: Row) -> str:
    """When a row's trial began; empty where that is not known."""
    return row.started.isoformat() if row.started else ""


def note(front: Sequence[Row]) -> str:
    """The front in Markdown, which MLflow shows on top of the parent's page."""
    measured = objectives.measured()
    lines = [
        "The Pareto front: runs with `tags.on_front = 'true'`. Picture and report are among the artifacts.",
        "",
        " | ".join(["| recipe | what | GFLOPs | of dense", *(one.title for one in measured)]) + " |",
        "|---|---|---:|---:|" + "---:|" * len(measured),
    ]
    for row in front:
        accuracies = (f"{one.text(one.value(row))}{one.unit}" for one in measured)
        figures = " | ".join((f"{row.gflops:.4f}", f"{row.gflops_share:.1%}", *accuracies))
        lines.append(f"| `{row.recipe_id}` | {row.label or row.family} | {figures} |")
    return "\n".join(lines)


def params(row: Row) -> dict[str, str]:
    """Widths and ratios, one parameter a block, so that the UI can put each on an axis."""
    found = {"embed": str(row.embed)}
    for name in ("operating_point", "seed", "recovery_steps"):
        if row.stage in ("benchmark", "refined"):
            found[name] = str(getattr(row, name))
    for kind in ("heads", "qk", "v", "mlp", "ratios"):
        name = "merge" if kind == "ratios" else kind
        for block, value in enumerate(getattr(row, kind)):
            found[f"{name}_{block:02d}"] = f"{value:.4g}" if kind == "ratios" else str(value)
    return found


def metrics(row: Row, classes: Sequence[str]) -> dict[str, float]:
    """What was measured; NaN is left out."""
    found = {name: getattr(row, name) for name in (*_METRICS, *(one.name for one in objectives.measured()))}
    for index, value in enumerate(row.class_iou):
        found[f"iou_{_safe(classes[index])}"] = value
    return {name: float(value) for name, value in found.items() if value is not None and value == value}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as parameters with dots; those that are not set are left out."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = str(value)
    return found


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
