# SPDX-License-Identifier: Apache-2.0
"""A result row: names, types and meanings of its columns, and conversion from and to Arrow.

A row is one recipe measured at one stage of one sweep. Rows can be read without raycomp:
`duckdb.sql("select recipe_id, gflops, clean_miou from 'results/SWEEP/trials/*.parquet'")`.
"""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from datetime import datetime, timedelta
from itertools import repeat
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa

from raycomp.recipe import Recipe
from raycomp.renamed import COLUMNS, ORIGINS

T = TypeVar("T")

_ARROW: dict[object, pa.DataType] = {
    str: pa.string(),
    int: pa.int32(),
    float: pa.float64(),
    bytes: pa.binary(),
    datetime: pa.timestamp("us", tz="UTC"),
    Sequence[int]: pa.list_(pa.int32()),
    Sequence[float]: pa.list_(pa.float64()),
    Sequence[str]: pa.list_(pa.string()),
}
"""Arrow type of a column by Python type, unless the column's annotation names another."""


class Extra(NamedTuple):
    """A column that a newer version added, and its value."""

    field: pa.Field
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement. A missing number is None and a missing list is empty; both are null in Parquet.

    Each field is a column. Its annotation holds the meaning, and the Arrow type if the Python type does not imply it.
    """

    sweep: Annotated[str, "name of the sweep"] = ""
    number: Annotated[int, "position of the trial in proposal order, from 0"] = 0
    stage: Annotated[
        str,
        "search: every trial, on few images; probe: accuracy on its first images alone; full, refined, benchmark: the "
        "full evaluation set",
    ]
    origin: Annotated[
        str, "reference: the dense model; baseline: matched by hand; proposed: by the sampler; benchmark: the method"
    ] = ""
    label: Annotated[str, "name of the baseline, for example 'uniform ToMe 50%'; empty for proposals"] = ""
    operating_point: Annotated[
        str | None, "benchmark: strength of the method in the paper's terms; refined: training settings"
    ] = None
    target_gflops: Annotated[float | None, "benchmark: GFLOPs that the method was matched to"] = None
    recovery: Annotated[str, "how accuracy was recovered after compression: none, elastic, or finetune"] = ""
    recovery_steps: Annotated[int, "fine-tuning steps after compression"] = 0
    status: Annotated[str, "complete, failed, or stopped (early: it could not reach the front)"]
    error: Annotated[str, "error message; empty when complete"] = ""
    traceback: Annotated[str, "where a failed trial raised its error; empty if its worker died"] = ""
    recipe_id: Annotated[str, "hash of the canonical recipe"]
    recipe_json: Annotated[str, "the canonical recipe"] = ""
    family: Annotated[
        str,
        "dense, prune, a merge method (tome, algm, cts, windows_tome) or both (prune+tome); with +int8, or int8 "
        "alone, for INT8",
    ] = ""
    precision: Annotated[str, "precision of the recipe's linear maps: fp32 or int8"] = "fp32"
    embed: Annotated[int, "embedding width"] = 0
    heads: Annotated[Sequence[int], "heads of each block"] = ()
    qk: Annotated[Sequence[int], "query and key width per head of each block"] = ()
    v: Annotated[Sequence[int], "value width per head of each block"] = ()
    mlp: Annotated[Sequence[int], "MLP width of each block"] = ()
    ratios: Annotated[Sequence[float], "merge ratio of each block; recipe_json also has that of windows"] = ()
    tokens: Annotated[Sequence[int], "tokens after each block, special tokens included"] = ()
    gflops: Annotated[float | None, "GFLOPs per image, counted as fvcore counts"] = None
    gflops_share: Annotated[float | None, "gflops relative to the dense model"] = None
    predicted_ms: Annotated[float | None, "time of a batch by the latency table; null unless the sweep limits time"] = (
        None
    )
    predicted_share: Annotated[
        float | None, "predicted_ms relative to the dense model; null unless latency is the sweep's cost metric"
    ] = None
    gflops_encoder: Annotated[float | None, "GFLOPs of the patch embedding and all encoder blocks"] = None
    gflops_blocks: Annotated[Sequence[float], "GFLOPs of each encoder block"] = ()
    params: Annotated[int | None, "number of parameters of the compressed model", pa.int64()] = None
    memory_mb: Annotated[
        float | None, "MB of weights and peak activations of a batch of search.latency_batch images, estimated"
    ] = None
    file_mb: Annotated[float | None, "MB of weights in the exported file"] = None
    clean_miou: Annotated[float | None, "mIoU on clean images, 0 to 1"] = None
    corrupted_miou: Annotated[float | None, "mIoU_noise = mPC: mean over types and severities, 0 to 1"] = None
    early_clean_miou: Annotated[
        float | None, "clean_miou on the first images of the search stage; null without evaluation.early_stopping"
    ] = None
    early_corrupted_miou: Annotated[float | None, "corrupted_miou on the first images"] = None
    rpc: Annotated[float | None, "corrupted_miou / clean_miou"] = None
    corrupted_by_type: Annotated[Sequence[float], "mIoU of each of the 16 types, mean over severities"] = ()
    corrupted_by_severity: Annotated[Sequence[float], "mIoU of each of the 5 severities, mean over types"] = ()
    corrupted_by_variant: Annotated[Sequence[float], "mIoU of the 80 variants: by type, then severity 1 to 5"] = ()
    class_iou: Annotated[Sequence[float], "clean IoU of each class; NaN for a class that does not occur"] = ()
    classes: Annotated[Sequence[str], "names of the classes"] = ()
    per_image: Annotated[
        bytes | None, "full evaluation: pixel counts of each image by class, a NumPy archive (evaluate/per_image.py)"
    ] = None
    effective_rank: Annotated[float | None, "erank / min(tokens, width) of the encoder's output, mean over images"] = (
        None
    )
    effective_rank_std: Annotated[float | None, "standard deviation of the effective rank over images"] = None
    latency_ms: Annotated[
        float | None, "median latency at batch 1 while other trials run; null if trials share a GPU, and for INT8"
    ] = None
    throughput: Annotated[float | None, "images per second at `batch`, while other trials run; null for INT8"] = None
    device: Annotated[str | None, "device of the measurement: cpu, or the GPU's name"] = None
    dtype: Annotated[str, "precision of the measurement"] = ""
    batch: Annotated[int, "batch of the measurement; smaller than configured if the GPU ran out of memory"] = 0
    threads: Annotated[int, "torch threads of the measurement"] = 0
    images: Annotated[int | None, "number of images measured"] = None
    seed: Annotated[int, "seed of the sweep; benchmark: of the recovery", pa.int64()] = 0
    checkpoint: Annotated[str, "hash of the dense checkpoint, and of the elastic one if recipes are cut from it"] = ""
    dataset: Annotated[str, "name of the data set"] = ""
    evalset: Annotated[str, "hash of the evaluation images"] = ""
    started: Annotated[datetime | None, "start of the trial"] = None
    seconds: Annotated[float | None, "total time of the trial in its worker"] = None
    seconds_build: Annotated[float | None, "time to build the compressed model"] = None
    seconds_recover: Annotated[float | None, "time of fine-tuning"] = None
    seconds_measure: Annotated[float | None, "time of evaluation"] = None
    versions: Annotated[str, "library versions, JSON"] = ""
    git_commit: Annotated[str | None, "commit of the code; null unless it runs from a checkout"] = None
    extra: tuple[Extra, ...] = ()
    """Columns of a newer version, written back unchanged."""

    @property
    def recipe(self) -> Recipe:
        """The measured recipe."""
        return Recipe.model_validate_json(self.recipe_json)

    @property
    def timed(self) -> bool:
        """Whether latency is the cost metric of the row's sweep, in place of GFLOPs."""
        return self.predicted_share is not None

    @property
    def cost(self) -> float:
        """Cost that the row's sweep limits and minimises: predicted milliseconds if `timed`, else GFLOPs."""
        return present(self.predicted_ms if self.timed else self.gflops)

    @property
    def cost_share(self) -> float:
        """Cost relative to the dense model."""
        return present(self.predicted_share if self.timed else self.gflops_share)

    @property
    def kind(self) -> str:
        """Name in tables: the label of a baseline, the family of other recipes."""
        return self.label or self.family

    @property
    def is_dense(self) -> bool:
        """Whether the row measures the dense model, the reference for all others."""
        return self.origin in ("reference", "dense")

    @property
    def ended(self) -> datetime | None:
        """End of the trial; None if its start is unknown."""
        return None if self.started is None else self.started + timedelta(seconds=self.seconds or 0.0)

    @property
    def identity(self) -> str:
        """Unique key of a row within its sweep; it names the row's file and its MLflow run."""
        if self.stage == "refined":
            return f"refined-{self.recipe_id}-seed{self.seed}"
        if self.stage == "benchmark":
            return f"benchmark-{self.label.lower().replace(' ', '-')}-seed{self.seed}"
        return searched(self.stage, self.recipe_id)

    def columns(self) -> dict[str, object]:
        """Return the values by column, null as None; columns of a newer version come last."""
        values: dict[str, object] = {name: _nullable(getattr(self, name)) for name in SCHEMA.names}
        return values | {extra.field.name: extra.value for extra in self.extra}


def present(value: T | None) -> T:
    """Return a value that every complete row has; raise a ValueError if it is None."""
    if value is None:
        raise ValueError("a complete row lacks a value that it must have")
    return value


def searched(stage: str, recipe_id: str) -> str:
    """Return the unique key of a row of the search or full stage."""
    return f"{stage}-{recipe_id}"


def _column(name: str, hint: Any) -> pa.Field:
    """Return the Arrow field of a dataclass field."""
    python, doc, *arrow = get_args(hint)
    kind = python if get_origin(python) is Sequence else next(t for t in (*get_args(python), python) if t != NoneType)
    return pa.field(name, arrow[0] if arrow else _ARROW[kind], metadata={"doc": doc})


_HINTS = get_type_hints(Row, include_extras=True)
_COLUMNS = [field for field in fields(Row) if field.name != "extra"]
_DEFAULTS = {field.name: None if field.default is MISSING else field.default for field in _COLUMNS}
_SLOTS = [(field.name, getattr(Row, field.name).__set__, _DEFAULTS.get(field.name, ())) for field in fields(Row)]
SCHEMA = pa.schema([_column(name, _HINTS[name]) for name in _DEFAULTS])


def rows_of(table: pa.Table) -> list[Row]:
    """Return the rows of a table; missing columns get their defaults, and unknown columns are kept in `extra`."""
    if not COLUMNS.keys().isdisjoint(table.column_names):
        table = table.rename_columns([COLUMNS.get(name, name) for name in table.column_names])
    return [row for batch in table.to_batches() for row in _rows(batch)]


def _rows(batch: pa.RecordBatch) -> list[Row]:
    """Fill slots column by column, which takes a third of the time of calling a constructor with so many arguments."""
    values, count = batch.to_pydict(), batch.num_rows
    if "origin" in values:
        values["origin"] = [ORIGINS.get(origin, origin) for origin in values["origin"]]
    rows = [object.__new__(Row) for _ in range(count)]
    for name, fill, default in _SLOTS:
        column = values.get(name) if name in _DEFAULTS else None
        for row, value in zip(rows, repeat(default, count) if column is None else column, strict=True):
            fill(row, default if value is None else value)
    if unknown := [field for field in batch.schema if field.name not in _DEFAULTS]:
        columns = [[Extra(field, value) for value in values[field.name]] for field in unknown]
        return [replace(row, extra=extra) for row, extra in zip(rows, zip(*columns, strict=True), strict=True)]
    return rows


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return rows as a table: the columns of the schema, then those of a newer version."""
    arrays = [pa.array([_nullable(getattr(row, field.name)) for row in rows], field.type) for field in SCHEMA]
    unknown = {extra.field.name: extra.field for row in rows for extra in row.extra}
    extras = [{extra.field.name: extra.value for extra in row.extra} for row in rows] if unknown else []
    arrays += [pa.array([values.get(name) for values in extras], field.type) for name, field in unknown.items()]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*SCHEMA, *unknown.values()]))


def _nullable(value: object) -> object:
    return None if isinstance(value, tuple) and not value else value
