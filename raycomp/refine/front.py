# SPDX-License-Identifier: Apache-2.0
"""Refine the front of a finished sweep: fine-tune its recipes one by one, then measure them all in parallel."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import ray
import torch

from raycomp.cluster.connection import finished, remote
from raycomp.context.sweep_context import SweepContext
from raycomp.deploy.model import load
from raycomp.devices import device_name
from raycomp.errors import UserError, last_line, nearest
from raycomp.files import fetched
from raycomp.recover import in_precision
from raycomp.refine.finetuning import RefineInputs, Target, model_path, refine_one, settings_text
from raycomp.results.pareto import most_useful
from raycomp.results.query import completed, final_front
from raycomp.results.row import Row
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from raycomp.search.rows import described, failed, git_commit, measured
from raycomp.search.trial import measured_in
from raycomp.settings.amounts import Limit
from raycomp.training_loop import TrainingProgress

STAGE = "refined"


def front_targets(
    rows: Sequence[Row], budget: Limit, seeds: Sequence[int], top: int | None = None, ids: Sequence[str] = ()
) -> list[Target]:
    """Return the recipes of the front with every seed, cheapest first.

    Args:
        top: Maximum number of recipes; from a larger front, those that add most hypervolume.
        ids: Prefixes of recipe ids; if given, only these recipes.

    Raises:
        UserError: If no member of the front has a prefix.
    """
    front = final_front(rows, budget)
    if not front:
        return []
    members = [row.recipe_id for row in front]
    for prefix in ids:
        if not any(member.startswith(prefix) for member in members):
            raise UserError(f"--recipes {prefix}: not on the front; {nearest(prefix, members)}")
    if ids:
        front = [row for row in front if row.recipe_id.startswith(tuple(ids))]
    chosen = most_useful(front, top or len(front), front[0].cost / front[0].cost_share)
    return [Target(row, seed) for row in chosen for seed in seeds]


def refine(
    inputs: RefineInputs,
    context: SweepContext,
    store: Store,
    targets: Sequence[Target],
    on_step: Callable[[int, TrainingProgress], None],
    on_row: Callable[[Row], None],
) -> list[Row]:
    """Fine-tune and measure targets, except those already measured with the same settings.

    Args:
        on_step: Called in the driver with the index of the target and its training progress.
        on_row: Called in the driver with every row, old and new.
    """
    text = settings_text(inputs.config)
    done = {(row.recipe_id, row.seed): row for row in completed(store.rows(), STAGE) if row.operating_point == text}
    rows, waiting = [], {}
    task = remote(_measure, context.config, inputs.max_failures)
    for index, target in enumerate(targets):
        row = done.get((target.recipe.id, target.seed))
        if row is not None:
            rows.append(row)
            on_row(row)
            continue
        refine_one(inputs, target, partial(on_step, index))
        proposal = Proposal(index, STAGE, target.row.origin, target.row.label, target.recipe)
        row = replace(
            described(context, proposal),
            seed=target.seed,
            operating_point=text,
            recovery=f"{context.config.recovery.mode}, refined",
            recovery_steps=inputs.config.train.steps,
            started=datetime.now(UTC),
            git_commit=git_commit(),
        )
        waiting[task.remote(inputs, target, row)] = row
    for ready in finished(waiting):
        try:
            row = ray.get(ready)
        except ray.exceptions.RayError as error:
            row = failed(waiting[ready], last_line(error))
        store.write(row)
        rows.append(row)
        on_row(row)
    return rows


def _measure(inputs: RefineInputs, target: Target, row: Row, device: torch.device) -> Row:
    """Measure in a Ray task and return the complete row."""
    context = ray.get(inputs.context)
    with fetched(model_path(inputs, target)) as local:
        model = in_precision(context, load(local), target.recipe, device)
    result = measured_in(context, model, "full", device)
    return replace(
        measured(row, context, result),
        params=sum(p.numel() for p in model.parameters()),
        threads=torch.get_num_threads(),
        device=device_name(device),
        seconds=result.seconds,
    )
