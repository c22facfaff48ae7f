"""The columns of a result row: names, types and meaning in one place.

A row is one recipe measured at one stage of one sweep. Reading them needs no raycomp:
`duckdb.sql("select recipe_id, gflops, clean_miou from 'results/SWEEP/trials/*.parquet'")`.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from raycomp.errors import UserError, first_line
from raycomp.recipe import Recipe

Row = dict[str, Any]

_FLOATS, _INTS = pa.list_(pa.float64()), pa.list_(pa.int32())

# name, type, meaning
COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("sweep", pa.string(), "name of the sweep"),
    ("number", pa.int32(), "order in which the trial was proposed, from 0"),
    ("stage", pa.string(), "search: the small evaluation of every trial; full, refined, benchmark: the whole set"),
    (
        "origin",
        pa.string(),
        "reference: the dense model; known: an enqueued recipe; proposed: by the sampler; or method",
    ),
    ("label", pa.string(), "which known recipe it is, for example 'uniform ToMe 50%'; empty for proposals"),
    ("setting", pa.string(), "benchmark: the method's setting in the paper's terms; refined: how it was trained"),
    ("target_gflops", pa.float64(), "benchmark: the GFLOPs the setting was matched to"),
    ("recovery", pa.string(), "how the cut model recovers: none, elastic, or finetune"),
    ("recovery_steps", pa.int32(), "fine-tuning steps after compression"),
    ("status", pa.string(), "complete, failed, or stopped: after the first images, as it could not reach the front"),
    ("error", pa.string(), "what failed; empty when complete"),
    ("recipe_id", pa.string(), "hash of the canonical recipe"),
    ("recipe_json", pa.string(), "the canonical recipe"),
    ("family", pa.string(), "dense, prune, tome, algm, cts, or prune+ one of them"),
    ("embed", pa.int32(), "embedding width"),
    ("heads", _INTS, "heads of each block"),
    ("qk", _INTS, "query and key width per head of each block"),
    ("v", _INTS, "value width per head of each block"),
    ("mlp", _INTS, "MLP width of each block"),
    ("ratios", _FLOATS, "merge ratio of each block"),
    ("tokens", _INTS, "tokens after each block, special tokens included"),
    ("gflops", pa.float64(), "GFLOPs of one image, fvcore's convention"),
    ("gflops_share", pa.float64(), "gflops relative to the dense model"),
    ("predicted_ms", pa.float64(), "where the sweep limits time: of a batch, by the latency table; else null"),
    ("predicted_share", pa.float64(), "predicted_ms relative to the dense model"),
    ("gflops_encoder", pa.float64(), "GFLOPs of patch embedding and encoder blocks"),
    ("gflops_blocks", _FLOATS, "GFLOPs of each encoder block"),
    ("params", pa.int64(), "parameters of the compressed model"),
    ("clean_miou", pa.float64(), "mIoU on clean images, 0 to 1"),
    ("corrupted_miou", pa.float64(), "mIoU_noise = mPC: mean over types and severities, 0 to 1"),
    ("first_clean_miou", pa.float64(), "clean_miou of the first images of the search stage, where it has such"),
    ("first_corrupted_miou", pa.float64(), "corrupted_miou of the first images"),
    ("rpc", pa.float64(), "corrupted_miou / clean_miou"),
    ("corrupted_by_type", _FLOATS, "mIoU of each of the 16 types, mean over severities"),
    ("corrupted_by_severity", _FLOATS, "mIoU of each of the 5 severities, mean over types"),
    ("corrupted_by_variant", _FLOATS, "mIoU of the 80 variants, type by type, severity 1 to 5"),
    ("class_iou", _FLOATS, "clean IoU of each class; NaN for a class that does not occur"),
    ("classes", pa.list_(pa.string()), "their names"),
    ("per_image", pa.binary(), "full set: pixels of each image by class, a NumPy archive (evaluate/per_image.py)"),
    ("effective_rank", pa.float64(), "erank / min(tokens, width) of the encoder's output, mean over images"),
    ("effective_rank_std", pa.float64(), "its standard deviation over images"),
    ("latency_ms", pa.float64(), "median latency at batch 1, while other trials ran; null where they share a card"),
    ("throughput", pa.float64(), "images a second at `batch`, measured while other trials ran"),
    ("device", pa.string(), "device of the measurement: cpu, or the card's name"),
    ("dtype", pa.string(), "precision of the measurement"),
    ("batch", pa.int32(), "batch of the measurement; less than configured where the card had no memory for that"),
    ("threads", pa.int32(), "torch threads of the measurement"),
    ("images", pa.int32(), "images measured"),
    ("seed", pa.int64(), "seed of the sweep; benchmark: of the recovery"),
    ("checkpoint", pa.string(), "hash of the dense checkpoint, and of the elastic one where recipes are cut from that"),
    ("dataset", pa.string(), "name of the data set"),
    ("evalset", pa.string(), "hash of the evaluation images"),
    ("started", pa.timestamp("us", tz="UTC"), "when the trial began"),
    ("seconds", pa.float64(), "time of the whole trial in its worker"),
    ("seconds_build", pa.float64(), "of it: building the compressed model"),
    ("seconds_recover", pa.float64(), "of it: fine-tuning"),
    ("seconds_measure", pa.float64(), "of it: evaluation"),
    ("versions", pa.string(), "library versions, JSON"),
    ("git_commit", pa.string(), "commit of the code, where it runs from a checkout"),
)

SCHEMA = pa.schema([pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in COLUMNS])


def timed(row: Row) -> bool:
    """Whether the row's sweep limits time in place of GFLOPs."""
    return row.get("predicted_ms") is not None


def cost(row: Row) -> float:
    """What the row's sweep limits and minimises: predicted milliseconds where it limits time, else GFLOPs."""
    return float(row["predicted_ms"] if timed(row) else row["gflops"])


def cost_share(row: Row) -> float:
    """The same relative to the dense model."""
    return float(row["predicted_share"] if timed(row) else row["gflops_share"])


def widths(recipe: Recipe) -> Row:
    """Widths and ratios of a recipe as columns."""
    per_block = {kind: [getattr(block, kind) for block in recipe.blocks] for kind in ("heads", "qk", "v", "mlp")}
    return {"embed": recipe.embed, **per_block, "ratios": list(recipe.ratios)}


def class_names(rows: Sequence[Row]) -> list[str]:
    """Names of the classes of a sweep; their indices where all rows are of before there were names."""
    named = next((row["classes"] for row in rows if row.get("classes")), None)
    return list(named) if named else [f"class {index}" for index in range(len(rows[0].get("class_iou") or []))]


def ended(row: Row) -> datetime | None:
    """When a trial ended; None in a row that does not say when it began."""
    return None if row.get("started") is None else row["started"] + timedelta(seconds=row.get("seconds") or 0.0)


def is_dense(row: Row) -> bool:
    """Whether the row is of the dense model, by which all others are judged."""
    return row["origin"] in ("reference", "dense")


def check_measured(rows: Sequence[Row]) -> None:
    """Check that the dense model was measured, and at least one other recipe.

    Raises:
        UserError: with the first error, and how many failed.
    """
    failed = [row for row in rows if row["status"] == "failed"]
    if whole := next((row for row in failed if is_dense(row)), None):
        raise UserError(f"the dense model could not be measured: {_first_error(whole)}")
    others = [row for row in rows if not is_dense(row)]
    if others and len(failed) == len(others):
        many, first = f"{len(failed)} of {len(others)}", _first_error(failed[0])
        raise UserError(f"no recipe could be measured ({many} failed); first error: {first}")


def _first_error(row: Row) -> str:
    return first_line(row["error"] or "unknown error")


def identity(row: Row) -> str:
    """What a row is the only one of: a recipe at a stage, or refined with a seed, or a cell of a benchmark.

    Names its file and its MLflow run.
    """
    if row["stage"] == "refined":
        return f"refined-{row['recipe_id']}-seed{row['seed']}"
    if row["stage"] == "benchmark":
        return f"benchmark-{row['label'].lower().replace(' ', '-')}-seed{row['seed']}"
    return f"{row['stage']}-{row['recipe_id']}"
