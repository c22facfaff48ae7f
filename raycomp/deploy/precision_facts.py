# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file says of its precision, and whether the precision is worth deploying; needs no torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from raycomp.config import explain
from raycomp.errors import UserError

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRECISION_FIELD = "precision"
"""Metadata field of an ONNX file that holds its `PrecisionFacts` as JSON."""
_LOSS = 0.5  # points of mIoU
_GAIN = 1.03  # medians of one model timed twice in a run differ by up to 3 %


class PrecisionFigures(BaseModel):
    """A precision as measured in onnxruntime, compared with float32 in the same run."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    clean_miou: float
    """In [0, 1], on the clean images of the full evaluation set."""
    corrupted_miou: float
    """In [0, 1], mean over the corrupted variants of the full evaluation set."""
    clean_change: float
    """Clean mIoU minus that of float32, points."""
    corrupted_change: float
    """Corrupted mIoU minus that of float32, points."""
    images: int
    """Number of images measured."""
    latency_ms: dict[int, float]
    """Median time of a batch by batch size: that of the thread, which other work on the machine hardly affects."""
    speedup: dict[int, float]
    """Time of float32 divided by this precision's, by batch size; their runs took turns."""
    setting: str
    """Device, threads and version of onnxruntime."""

    @property
    def loses(self) -> str:
        """What the precision loses, if more than 0.5 points; otherwise empty."""
        changes = {"clean": self.clean_change, "corrupted": self.corrupted_change}
        lost = [f"{-change:.2f} points of {name} mIoU" for name, change in changes.items() if change < -_LOSS]
        return f"loses {' and '.join(lost)}" if lost else ""

    @property
    def gains(self) -> list[int]:
        """Batch sizes at which the precision saves time."""
        return [batch for batch, speedup in self.speedup.items() if speedup > _GAIN]


class PrecisionFacts(BaseModel):
    """Precision of an ONNX file."""

    model_config = ConfigDict(frozen=True)

    precision: Precision = "fp32"
    figures: PrecisionFigures | None = None
    """None if not measured."""


def parse_facts(metadata: Mapping[str, str], path: Path) -> PrecisionFacts:
    """Parse the precision in a file's metadata; files without one are older, and float32.

    Raises:
        UserError: if `raycomp export` did not write it.
    """
    try:
        return PrecisionFacts.model_validate_json(metadata.get(PRECISION_FIELD, "{}"))
    except ValidationError as error:
        raise UserError(f"{path}: {PRECISION_FIELD}: {explain(error, PrecisionFacts)}") from None


def recommendation(precision: Precision, figures: PrecisionFigures) -> str:
    """Say in a line whether a precision other than float32 is worth deploying.

    It is not if it loses more than 0.5 points of either mIoU, or saves no time at any batch size.
    """
    changes = f"mIoU changes by {figures.clean_change:+.2f} / {figures.corrupted_change:+.2f} points"
    speedups = _at(figures.speedup, figures.speedup)
    if figures.loses or not figures.gains:
        reasons = [figures.loses, "" if figures.gains else f"gains no time: {speedups}"]
        return f"{precision}: not recommended: {'; '.join(filter(None, reasons))}"
    slower = [batch for batch in figures.speedup if batch not in figures.gains]
    where = f", for batches of {' and '.join(map(str, figures.gains))} only" if slower else ""
    return f"{precision}: recommended{where}: {speedups}; {changes}"


def _at(speedup: Mapping[int, float], batches: Iterable[int]) -> str:
    """Describe the speeds at batch sizes: `1.20x the speed of fp32 at batch 1, 1.31x at batch 16`."""
    first, *others = (f"{speedup[batch]:.2f}x{{}} at batch {batch}" for batch in batches)
    return ", ".join([first.format(" the speed of fp32"), *(other.format("") for other in others)])
