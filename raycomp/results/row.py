"""A result row: the names, types and meaning of its columns, and how it is read from and written to Arrow.

A row is one recipe measured at one stage of one sweep. Reading rows needs no raycomp:
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
"""The Arrow type of a column by its Python type, unless the column names another."""


class Extra(NamedTuple):
    """A value of a column that a newer version added."""

    field: pa.Field
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement. A missing figure is None, a missing list is empty; both are null in Parquet.

    A field is a column: its annotation holds the meaning and, where that does not follow from the Python type, the
    Arrow type.
    """

    sweep: Annotated[str, "name of the sweep"] = ""
    number: Annotated[int, "order in which the trial was proposed, from 0"] = 0
    stage: Annotated[str, "search: the small evaluation of every trial; full, refined, benchmark: the whole set"]
    origin: Annotated[
        str,
        "reference: the dense model; baseline: a recipe matched by hand; proposed: by the sampler; or a method",
    ] = ""
    label: Annotated[str, "which baseline it is, for example 'uniform ToMe 50%'; empty for proposals"] = ""
    operating_point: Annotated[
        str | None,
        "benchmark: the method's strength in the paper's terms; refined: how it was trained",
    ] = None
    target_gflops: Annotated[float | None, "benchmark: the GFLOPs that the method was matched to"] = None
    recovery: Annotated[str, "how the cut model recovers: none, elastic, or finetune"] = ""
    recovery_steps: Annotated[int, "fine-tuning steps after compression"] = 0
    status: Annotated[str, "complete, failed, or stopped: after the first images, as it could not reach the front"]
    error: Annotated[str, "what failed; empty when complete"] = ""
    recipe_id: Annotated[str, "hash of the canonical recipe"]
    recipe_json: Annotated[str, "the canonical recipe"] = ""
    family: Annotated[str, "dense, prune, tome, algm, cts, or prune+ one of them"] = ""
    embed: Annotated[int, "embedding width"] = 0
    heads: Annotated[Sequence[int], "heads of each block"] = ()
    qk: Annotated[Sequence[int], "query and key width per head of each block"] = ()
    v: Annotated[Sequence[int], "value width per head of each block"] = ()
    mlp: Annotated[Sequence[int], "MLP width of each block"] = ()
    ratios: Annotated[Sequence[float], "merge ratio of each block"] = ()
    tokens: Annotated[Sequence[int], "tokens after each block, special tokens included"] = ()
    gflops: Annotated[float | None, "GFLOPs of one image, fvcore's convention"] = None
    gflops_share: Annotated[float | None, "gflops relative to the dense model"] = None
    predicted_ms: Annotated[
        float | None,
        "where the sweep limits time: of a batch, by the latency table; else null",
    ] = None
    predicted_share: Annotated[float | None, "predicted_ms relative to the dense model"] = None
    gflops_encoder: Annotated[float | None, "GFLOPs of patch embedding and encoder blocks"] = None
    gflops_blocks: Annotated[Sequence[float], "GFLOPs of each encoder block"] = ()
    params: Annotated[int | None, "parameters of the compressed model", pa.int64()] = None
    clean_miou: Annotated[float | None, "mIoU on clean images, 0 to 1"] = None
    corrupted_miou: Annotated[float | None, "mIoU_noise = mPC: mean over types and severities, 0 to 1"] = None
    early_clean_miou: Annotated[
        float | None,
        "clean_miou of the first images of the search stage, where it has such",
    ] = None
    early_corrupted_miou: Annotated[float | None, "corrupted_miou of the first images"] = None
    rpc: Annotated[float | None, "corrupted_miou / clean_miou"] = None
    corrupted_by_type: Annotated[Sequence[float], "mIoU of each of the 16 types, mean over severities"] = ()
    corrupted_by_severity: Annotated[Sequence[float], "mIoU of each of the 5 severities, mean over types"] = ()
    corrupted_by_variant: Annotated[Sequence[float], "mIoU of the 80 variants, type by type, severity 1 to 5"] = ()
    class_iou: Annotated[Sequence[float], "clean IoU of each class; NaN for a class that does not occur"] = ()
    classes: Annotated[Sequence[str], "their names"] = ()
    per_image: Annotated[
        bytes | None,
        "full set: pixels of each image by class, a NumPy archive (evaluate/per_image.py)",
    ] = None
    effective_rank: Annotated[
        float | None,
        "erank / min(tokens, width) of the encoder's output, mean over images",
    ] = None
    effective_rank_std: Annotated[float | None, "its standard deviation over images"] = None
    latency_ms: Annotated[
        float | None,
        "median latency at batch 1, while other trials ran; null where they share a card",
    ] = None
    throughput: Annotated[float | None, "images a second at `batch`, measured while other trials ran"] = None
    device: Annotated[str | None, "device of the measurement: cpu, or the card's name"] = None
    dtype: Annotated[str, "precision of the measurement"] = ""
    batch: Annotated[int, "batch of the measurement; less than configured where the card had no memory for that"] = 0
    threads: Annotated[int, "torch threads of the measurement"] = 0
    images: Annotated[int | None, "images measured"] = None
    seed: Annotated[int, "seed of the sweep; benchmark: of the recovery", pa.int64()] = 0
    checkpoint: Annotated[
        str,
        "hash of the dense checkpoint, and of the elastic one where recipes are cut from that",
    ] = ""
    dataset: Annotated[str, "name of the data set"] = ""
    evalset: Annotated[str, "hash of the evaluation images"] = ""
    started: Annotated[datetime | None, "when the trial began"] = None
    seconds: Annotated[float | None, "time of the whole trial in its worker"] = None
    seconds_build: Annotated[float | None, "of it: building the compressed model"] = None
    seconds_recover: Annotated[float | None, "of it: fine-tuning"] = None
    seconds_measure: Annotated[float | None, "of it: evaluation"] = None
    versions: Annotated[str, "library versions, JSON"] = ""
    git_commit: Annotated[str | None, "commit of the code, where it runs from a checkout"] = None
    extra: tuple[Extra, ...] = ()
    """Columns of a newer version, which are written back as they are."""

    @property
    def recipe(self) -> Recipe:
        """The recipe that was measured."""
        return Recipe.model_validate_json(self.recipe_json)

    @property
    def timed(self) -> bool:
        """Whether the row's sweep limits time in place of GFLOPs."""
        return self.predicted_ms is not None

    @property
    def cost(self) -> float:
        """What the row's sweep limits and minimises: predicted milliseconds where it limits time, else GFLOPs."""
        return present(self.predicted_ms if self.timed else self.gflops)

    @property
    def cost_share(self) -> float:
        """The cost relative to the dense model."""
        return present(self.predicted_share if self.timed else self.gflops_share)

    @property
    def is_dense(self) -> bool:
        """Whether the row is of the dense model, by which all others are judged."""
        return self.origin in ("reference", "dense")

    @property
    def ended(self) -> datetime | None:
        """When the trial ended; None in a row that does not say when it began."""
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
        """The values by column, null ones as None; columns of a newer version come last."""
        own: dict[str, object] = {name: _nullable(getattr(self, name)) for name in SCHEMA.names}
        return own | {extra.field.name: extra.value for extra in self.extra}


def present(value: T | None) -> T:
    """A value that every complete row has.

    Raises:
        ValueError: where it is missing.
    """
    if value is None:
        raise ValueError("a figure is missing that every complete row has")
    return value


def searched(stage: str, recipe_id: str) -> str:
    """Unique key of a row of the search or full stage."""
    return f"{stage}-{recipe_id}"


def _column(name: str, hint: Any) -> pa.Field:
    """The Arrow field of an annotated field."""
    python, doc, *arrow = get_args(hint)
    known = python if get_origin(python) is Sequence else next(t for t in (*get_args(python), python) if t != NoneType)
    return pa.field(name, arrow[0] if arrow else _ARROW[known], metadata={"doc": doc})


_HINTS = get_type_hints(Row, include_extras=True)
_COLUMNS = [field for field in fields(Row) if field.name != "extra"]
_DEFAULTS = {field.name: None if field.default is MISSING else field.default for field in _COLUMNS}
_SLOTS = [(field.name, getattr(Row, field.name).__set__, _DEFAULTS.get(field.name, ())) for field in fields(Row)]
SCHEMA = pa.schema([_column(name, _HINTS[name]) for name in _DEFAULTS])


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of a table; columns it lacks have their defaults, and columns unknown here are kept."""
    table = table.rename_columns([COLUMNS.get(name, name) for name in table.column_names])
    return [row for batch in table.to_batches() for row in _rows(batch)]


def _rows(batch: pa.RecordBatch) -> list[Row]:
    """Fill slots column by column, which takes a third of the time of a constructor of so many arguments."""
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
    """The rows as a table: the columns of the schema, then those that rows of a newer version hold."""
    arrays = [pa.array([_nullable(getattr(row, field.name)) for row in rows], field.type) for field in SCHEMA]
    unknown = {extra.field.name: extra.field for row in rows for extra in row.extra}
    held = [{extra.field.name: extra.value for extra in row.extra} for row in rows] if unknown else []
    arrays += [pa.array([one.get(name) for one in held], field.type) for name, field in unknown.items()]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*SCHEMA, *unknown.values()]))


def _nullable(value: object) -> object:
    return None if isinstance(value, tuple) and not value else value
