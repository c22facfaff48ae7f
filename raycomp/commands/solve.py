# SPDX-License-Identifier: Apache-2.0
"""`raycomp solve`: the recipe that a sweep's model expects to be best within any limits. torch is imported late."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from raycomp.commands.inputs import (
    Json,
    Results,
    SweepName,
    Tracking,
    cost_limits,
    print_json,
    results_option,
    runs_command,
    shape_of,
)
from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.evaluate.latency_error import stored_table
from raycomp.jobs.session import session, share_cores
from raycomp.report import tables
from raycomp.results.query import check_measured
from raycomp.results.store import Store, sweep_folder
from raycomp.results.tracking import tracking_uri
from raycomp.settings.amounts import Amount, CostName, Limit, parsed_limit, stored
from raycomp.settings.space_and_search import METRICS

if TYPE_CHECKING:
    from raycomp.report.solved import Answer
    from raycomp.search.confirmation import Confirmation

_BUDGET_HELP = "Maximum cost: a share of dense such as 31%, or 0.2GFLOPs, or 8ms; by default the sweep's budget."
_MS_HELP = "Maximum milliseconds of a batch, by the sweep's latency table."
_MEMORY_HELP = "Maximum memory of weights and activations: 20MB, or 70% of dense."
_FILE_HELP = "Maximum size of the exported file: 4MB, or 50% of dense."
_CONFIRM_HELP = "Measure the N best solutions, and add their rows to the sweep."
_OPTIONS = "--budget, --max-gflops, --max-params, --max-ms, --max-memory, --max-file"


def solve_command(
    sweep: SweepName,
    budget: Annotated[str | None, typer.Option(help=_BUDGET_HELP)] = None,
    max_gflops: Annotated[float | None, typer.Option(help="Maximum GFLOPs per image.")] = None,
    max_params: Annotated[str | None, typer.Option(help="Maximum parameters: 1M, or 50% of dense.")] = None,
    max_ms: Annotated[float | None, typer.Option(help=_MS_HELP)] = None,
    max_memory: Annotated[str | None, typer.Option(help=_MEMORY_HELP)] = None,
    max_file: Annotated[str | None, typer.Option(help=_FILE_HELP)] = None,
    confirm: Annotated[int | None, typer.Option(min=1, metavar="N", help=_CONFIRM_HELP)] = None,
    results: Results = "results",
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Solve for the recipe that a sweep's model expects to be best within new limits, without a trial."""
    store = Store(sweep_folder(results, sweep))
    config, rows = store.config(), store.rows()
    further = cost_limits(max_params, max_ms, max_memory, max_file, None)
    share, limits = _limits(config, budget, max_gflops, further)
    share_cores()
    from raycomp.report.solved import Answer
    from raycomp.search.confirmation import Confirmation
    from raycomp.search.solutions import Problem, solutions

    shape, _ = shape_of(config, store.folder / "sweep.yaml")
    problem = Problem.of(config, shape, store.folder, share, limits)
    asked: dict[str, object] = {"budget": None if share is None else stored(share), "confirm": confirm}
    asked |= {"limits": {name: stored(limit) for name, limit in limits.items()}}
    plan = Confirmation.unfinished(store.folder, asked) if confirm else None
    plan = plan or Confirmation(asked, solutions(problem, rows, confirm or 1))
    if confirm and plan.proposals(rows):
        _measure(config, store, plan, tracking_uri(tracking, results), as_json)
        rows = store.rows()
    answer = Answer.of(problem, rows, plan.solutions)
    if as_json:
        print_json({"sweep": sweep, "asked": asked} | answer.data())
    else:
        _print(answer, f"--sweep {sweep}{results_option(results)}")
        if "ms" in problem.costs and (about := stored_table(store.folder)):
            tables.say(f"times by the latency table: {about}")


def _print(answer: "Answer", place: str) -> None:
    """Print the answer and what to do next; `place`: options that name the sweep."""
    tables.console().print(tables.solved_table(answer))
    if not answer.measured:
        tables.say("to measure the solution, add --confirm 1")
    elif answer.best is not None:
        tables.say(f"to use the best measured: raycomp export {answer.best.recipe_id[:6]} {place} --out models")


def _limits(
    config: SweepConfig, budget: str | None, max_gflops: float | None, limits: dict[CostName, Limit]
) -> tuple[Limit | None, dict[CostName, Limit]]:
    """Return the budget in the sweep's cost metric, and the limits on further costs.

    A budget in the unit of another cost is one of these.
    """
    if max_gflops is not None:
        if not 0 < max_gflops < math.inf:
            raise UserError(f"--max-gflops {max_gflops:g}: expected a number above 0 such as 0.2")
        limits = limits | {"gflops": Amount(max_gflops, "gflops")}
    if budget is None:
        if not limits:
            raise UserError(f"solve needs a limit: {_OPTIONS}")
        return None, limits
    try:
        limit = parsed_limit(budget, ("gflops", "ms"))
    except ValueError as error:
        raise UserError(f"--budget {budget}: {error}") from None
    if not isinstance(limit, Amount) or METRICS[limit.cost] == config.search.cost_metric:
        return limit, limits
    if limit.cost in limits:
        raise UserError(f"--budget {budget}: --max-{limit.cost} limits the same cost; give one of them")
    return None, limits | {limit.cost: limit}


def _measure(config: SweepConfig, store: Store, plan: "Confirmation", uri: str, as_json: bool) -> None:
    """Measure what remains of the solutions; with JSON on stdout, progress goes to stderr."""
    store.lock.take()
    with session(config, store, uri, tables.console(aside=as_json)) as job:
        from raycomp.jobs.confirming import confirm

        rows = confirm(job, plan)
        job.say(f"runs:   {runs_command(uri)}")
    check_measured(list(plan.measured(rows).values()))
