# SPDX-License-Identifier: Apache-2.0
"""Build rows from proposals and measurements, for sweeps, benchmarks and refined fronts.

Rows are frozen: `described` creates one, the other functions return a copy with more fields set.
"""

import json
import platform
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from raycomp import footprint
from raycomp.context.sweep_context import SweepContext
from raycomp.errors import logger
from raycomp.evaluate.measure import Measurement, Stopped
from raycomp.evaluate.robustness import summary
from raycomp.flops import Profile, gflops, profile
from raycomp.recipe import dense
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal

_LIBRARIES = ("raycomp", "torch", "timm", "numpy", "ray", "optuna", "imagecorruptions", "scikit-image", "opencv-python")
_MAX_ERROR, _MAX_TRACEBACK = 2000, 8000  # characters


def described(context: SweepContext, proposal: Proposal) -> Row:
    """Return the row of a proposal before it is measured; its status is empty."""
    recipe, shape, config = proposal.recipe, context.shape, context.config
    blocks = recipe.blocks
    row = Row(
        sweep=config.name,
        number=proposal.number,
        stage=proposal.stage,
        origin=proposal.origin,
        label=proposal.label,
        status="",
        recipe_id=recipe.id,
        recipe_json=recipe.canonical_json(),
        family=recipe.family(shape),
        precision=recipe.precision,
        embed=recipe.embed,
        heads=[block.heads for block in blocks],
        qk=[block.qk for block in blocks],
        v=[block.v for block in blocks],
        mlp=[block.mlp for block in blocks],
        ratios=list(recipe.ratios),
        dtype=config.evaluation.dtype,
        batch=config.evaluation.batch,
        threads=torch.get_num_threads(),
        seed=config.search.seed,
        checkpoint=context.fingerprint,
        recovery=config.recovery.mode,
        recovery_steps=config.recovery.steps,
        dataset=config.data.dataset,
        evalset=context.evalset.fingerprint,
        versions=_versions(),
    )
    if not recipe.adaptive:
        row = _with_costs(row, context, [profile(shape, recipe, context.window)])
    if context.latency is None:
        return row
    predicted = context.latency.latency_ms(recipe)
    if config.search.cost_metric != "latency":  # only a limit
        return replace(row, predicted_ms=predicted)
    share = predicted / context.latency.latency_ms(dense(context.latency.shape))
    return replace(row, predicted_ms=predicted, predicted_share=share)


def measured(row: Row, context: SweepContext, result: Measurement, per_image: bool = True) -> Row:
    """Return the complete row of a measurement.

    Args:
        per_image: Whether to keep the results of every image, which would take much space in a search.
    """
    robust = summary(result.corrupted, result.clean_miou)
    if result.tokens:
        passes = [profile(context.shape, row.recipe, context.window, tokens) for tokens in result.tokens]
        row = _with_costs(row, context, passes)
    if result.first is not None:
        row = replace(row, early_clean_miou=result.first.clean, early_corrupted_miou=result.first.corrupted)
    return replace(
        row,
        status="complete",
        error="",
        clean_miou=result.clean_miou,
        corrupted_miou=robust.mpc,
        rpc=robust.rpc,
        corrupted_by_type=robust.per_type.tolist(),
        corrupted_by_severity=robust.per_severity.tolist(),
        corrupted_by_variant=result.corrupted.ravel().tolist(),
        class_iou=result.class_iou.tolist(),
        classes=list(context.evalset.classes),
        per_image=result.per_image.packed() if per_image else None,
        effective_rank=None if result.rank is None else result.rank.mean,
        effective_rank_std=None if result.rank is None else result.rank.std,
        latency_ms=result.latency_ms,
        throughput=result.throughput if row.precision == "fp32" else None,
        images=result.images,
        seconds_measure=result.seconds,
    )


def stopped(row: Row, early: Stopped) -> Row:
    """Return the row of a trial that was stopped after its first images."""
    first, seconds = early.first, early.seconds
    row = replace(row, early_clean_miou=first.clean, early_corrupted_miou=first.corrupted, images=early.images)
    return replace(row, seconds_measure=seconds, status="stopped", error="")


def failed(row: Row, error: Exception | str) -> Row:
    """Return the row of a recipe that could not be measured."""
    if isinstance(error, Exception):
        logger.debug("recipe %s", row.recipe_id, exc_info=error)
        lines = "".join(traceback.format_exception(error))
        row = replace(row, traceback=lines[-_MAX_TRACEBACK:])
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return replace(row, status="failed", error=text[:_MAX_ERROR])


def git_commit() -> str:
    """Read the commit of the checkout this file belongs to, without running git; empty outside a checkout."""
    git = Path(__file__).resolve().parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        return (git / head.removeprefix("ref: ")).read_text().strip() if head.startswith("ref: ") else head
    except OSError:
        return ""


def _with_costs(row: Row, context: SweepContext, passes: Sequence[Profile]) -> Row:
    """Set the costs of a recipe: the mean over `passes`, one per image where merging is adaptive."""
    total = float(np.mean([cost.gflops for cost in passes]))
    shape, window, config = context.shape, context.window, context.config
    dense_total = gflops(shape, dense(shape), window)
    tokens = [round(float(np.mean(counts))) for counts in zip(*(cost.tokens for cost in passes), strict=True)]
    batch, dtype, recipe = config.search.latency_batch, config.evaluation.dtype, row.recipe
    needed = footprint.memory(shape, recipe, window, batch, dtype, tokens if recipe.adaptive else None).total
    return replace(
        row,
        tokens=tokens,
        gflops=total,
        gflops_share=total / dense_total,
        memory_mb=needed / 1e6,
        file_mb=footprint.file_size(shape, recipe) / 1e6,
        gflops_encoder=float(np.mean([cost.encoder for cost in passes])),
        gflops_blocks=[float(np.mean(block)) for block in zip(*(cost.blocks for cost in passes), strict=True)],
    )


@cache
def _versions() -> str:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return json.dumps(versions)
