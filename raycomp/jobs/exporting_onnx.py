# SPDX-License-Identifier: Apache-2.0
"""Write a model as ONNX in every chosen precision, and measure them side by side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from raycomp.context.sweep_context import SweepContext
from raycomp.deploy.model import ModelCard
from raycomp.deploy.precision_facts import (
    PRECISION_FIELD,
    Precision,
    PrecisionFacts,
    PrecisionFigures,
    recommendation,
)
from raycomp.models.segmenter import Segmenter
from raycomp.report import tables

if TYPE_CHECKING:
    from onnx import ModelProto

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Written:
    """A file that was written."""

    format: str
    path: Path
    logit_difference: float | None = None
    """Maximum difference from torch's logits; None for safetensors, and for precisions other than float32."""
    precision: Precision = "fp32"
    label_agreement: float | None = None
    """Share of the pixels of the checked images that have torch's label; None if not ONNX."""
    figures: PrecisionFigures | None = None
    """None if not measured."""

    @property
    def size(self) -> int:
        """Size of the file, bytes."""
        return self.path.stat().st_size

    def described(self) -> dict[str, Any]:
        """Return all fields, the size, and whether the precision is recommended, as plain values."""
        compared = self.figures if self.precision != "fp32" else None
        return {
            **vars(self),
            "bytes": self.size,
            "figures": self.figures and self.figures.model_dump(),
            "recommendation": compared and recommendation(self.precision, compared),
        }


def write_onnx(
    model: Segmenter,
    card: ModelCard,
    windows: Tensor,
    context: SweepContext,
    calibration: np.ndarray | None,
    paths: Mapping[Precision, Path],
    measure: bool,
    say: Callable[[str], None],
) -> list[Written]:
    """Write a model to a path for each precision; raise a UserError if that fails.

    Args:
        windows: normalised real images (B, 3, H, W) to check on.
        calibration: training images (n, H, W, 3) uint8; needed for INT8.
        measure: whether to measure the precisions, if any but float32 is written.
    """
    from raycomp.deploy.measured import slow_in_int8
    from raycomp.deploy.onnx import checked_graph, metadata, write_graph  # optional

    if "int8" in paths and (why := slow_in_int8()):
        say(f"note: {why}: it may gain no time here")
    with tables.console(aside=True).status(f"tracing for onnx, and checking on {len(windows)} images"):
        traced, difference = checked_graph(model, windows)
        graphs: dict[Precision, ModelProto] = {"fp32": traced}
        for name in paths:
            if name != "fp32":
                graphs[name] = _converted(name, traced, context, calibration)
        agreements = {name: _agreement(graphs[name], model, windows) for name in paths}
    figures = _figures(graphs, context) if measure and len(graphs) > 1 else {}
    made = []
    for name, path in paths.items():
        facts = PrecisionFacts(precision=name, figures=figures.get(name))
        write_graph(graphs[name], path, {**metadata(model, card), PRECISION_FIELD: facts.model_dump_json()})
        exact = difference if name == "fp32" else None
        found = f"{agreements[name]:.2%} of the labels are" if exact is None else f"logits within {exact:.1e} of"
        say(f"{path}: {found} torch's on {len(windows)} images")
        made.append(Written("onnx", path, exact, name, agreements[name], figures.get(name)))
    return made


def _converted(
    name: Precision, traced: "ModelProto", context: SweepContext, calibration: np.ndarray | None
) -> "ModelProto":
    from raycomp.deploy.precision import to_fp16, to_int8

    if name == "fp16":
        return to_fp16(traced)
    assert calibration is not None
    return to_int8(traced, context.normalised(calibration).numpy())


def _agreement(graph: "ModelProto", model: Segmenter, windows: Tensor) -> float:
    from raycomp.deploy.onnx import open_session, run_bound

    session = open_session(graph.SerializeToString(), _CPU)
    with torch.inference_mode():
        same = run_bound(session, windows).argmax(1) == model(windows).argmax(1)
    return float(same.float().mean())


def _figures(graphs: Mapping[Precision, "ModelProto"], context: SweepContext) -> dict[Precision, PrecisionFigures]:
    from raycomp.deploy.measured import measured

    sources: dict[str, bytes] = {name: graph.SerializeToString() for name, graph in graphs.items()}
    config = context.config
    with Progress(console=tables.console(aside=True)) as progress:
        bars = dict[str, TaskID]()

        def report(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(step, total=total)
            progress.update(bars[step], completed=done)

        found = measured(sources, context.shape, context.evalset, config.evaluation, config.data, report)
    return {name: found[name] for name in graphs}
