"""Refine the front of a finished sweep: fine-tune its recipes one after the other, then measure them all at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
import torch

from raycomp.compress.apply import remerge
from raycomp.evaluate.measure import measure
from raycomp.models import checkpoints
from raycomp.recipe import Recipe
from raycomp.refine.training import Shared, Target, model_path, refine_one, settings_text
from raycomp.report.compare import final_front
from raycomp.results.row import Row
from raycomp.results.store import Store, completed
from raycomp.search.base import Base
from raycomp.search.cluster import gpus_per_trial, prepare_worker
from raycomp.search.pareto import most_useful
from raycomp.search.proposal import Proposal
from raycomp.search.trial import described, git_commit, measured
from raycomp.train import Standing

STAGE = "refined"


@dataclass(frozen=True)
class Wanted:
    """A target and the row that it was found by."""

    target: Target
    found: Row


def wanted_of(rows: Sequence[Row], budget_share: float, top: int | None, seeds: Sequence[int]) -> list[Wanted]:
    """The front's recipes with every seed, cheapest first; of a larger front the `top` that add most hypervolume."""
    front = final_front(rows, budget_share)
    if not front:
        return []
    chosen = most_useful(front, top or len(front), front[0]["gflops"] / front[0]["gflops_share"])
    recipes = [(Recipe.model_validate_json(row["recipe_json"]), row) for row in chosen]
    return [Wanted(Target(recipe, seed), row) for recipe, row in recipes for seed in seeds]


def refine(
    shared: Shared,
    base: Base,
    store: Store,
    wanted: Sequence[Wanted],
    on_step: Callable[[int, Standing], None],
    on_row: Callable[[Row], None],
) -> list[Row]:
    """Fine-tune and measure; what was measured by the same settings is not done again.

    Args:
        on_step: called in the driver with the index of the target and where its training stands.
        on_row: called in the driver with every row, old and new.
    """
    text = settings_text(shared.config)
    done = {(row["recipe_id"], row["seed"]): row for row in completed(store.rows(), STAGE) if row["setting"] == text}
    rows, waiting = [], {}
    gpus = gpus_per_trial(base.config)
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=shared.max_failures)(_measure)
    for index, one in enumerate(wanted):
        target, found = one.target, one.found
        row = done.get((target.recipe.id, target.seed))
        if row is not None:
            rows.append(row)
            on_row(row)
            continue
        refine_one(shared, target, lambda at, index=index: on_step(index, at))  # type: ignore[misc]
        started = datetime.now(UTC)
        proposal = Proposal(index, STAGE, found["origin"], found["label"], target.recipe)
        waiting[task.remote(shared, target)] = described(base, proposal) | {
            "seed": target.seed,
            "setting": text,
            "recovery": f"{base.config.recovery.mode}, refined",
            "recovery_steps": shared.config.train.steps,
            "started": started,
            "git_commit": git_commit(),
        }
    left = list(waiting)
    while left:
        ready, left = ray.wait(left, num_returns=1)
        row = waiting[ready[0]] | _result(ready[0])
        store.write(row)
        rows.append(row)
        on_row(row)
    return rows


def _result(reference: Any) -> Row:
    try:
        found: Row = ray.get(reference)
    except ray.exceptions.RayError as error:
        return {"status": "failed", "error": str(error).splitlines()[-1][:2000]}
    return found


def _measure(shared: Shared, target: Target) -> Row:
    """In a task: the measured part of a row."""
    device, base = prepare_worker(), ray.get(shared.base)
    model = checkpoints.load(model_path(shared, target))
    remerge(model, target.recipe)
    result = measure(model, base.evalset, "full", base.config.evaluation, base.config.data, device)
    return {
        **measured(base, target.recipe, result),
        "params": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "seconds_measure": result.seconds,
        "status": "complete",
        "error": "",
    }
