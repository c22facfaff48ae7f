"""A search, from settings to the front: its rows, tables, picture, page, and copies in MLflow and Optuna's storage."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from raycomp.cluster import placement
from raycomp.context.sweep_context import SweepContext
from raycomp.data.samples import Samples
from raycomp.jobs.session import Session
from raycomp.report import tables
from raycomp.report.compare import rank_text
from raycomp.report.page.sweep_page import write_sweep_page
from raycomp.report.plot import plot_front
from raycomp.report.progress import SweepProgress
from raycomp.report.published import comparability
from raycomp.report.sweep_view import SweepView
from raycomp.results.query import (
    at_budgets,
    final_front,
    final_stage,
    first_agreement,
    front_volume,
    origins,
    refined_front,
    stage_agreement,
)
from raycomp.results.replica import Replica
from raycomp.results.row import Row
from raycomp.search.proposer import Proposer
from raycomp.search.study_replica import StudyReplica, study_uri
from raycomp.search.sweep import Outcome, run_sweep
from raycomp.space import Space
from raycomp.storage import AnyPath
from raycomp.training_loop import preloaded


def search(session: Session, study: str | None) -> tuple[SweepView, bool]:
    """Search, then print and draw what was found.

    Args:
        study: Optuna's storage; None for the default.

    Returns:
        What was found, and whether the sweep is finished. After an interruption the same command goes on.

    Raises:
        UserError: where the sweep cannot go on from its rows, or the dense model could not be measured.
    """
    config, before = session.config, session.store.rows()
    placement.announce(config, session.say, session.warn, "--gpus")
    context = session.timed(session.prepared(before))
    measurable = None if context.elastic is None else context.elastic.space
    space = Space(context.shape, config.space, config.data.window_for(context.shape), policy=config.policy.kind)
    proposer = Proposer(replace(space, latency=context.latency), config.search, before, measurable)
    if before:
        session.say(f"{session.folder}: found {proposer.trials_done} of {config.search.trials} trials, going on")
    session.say(f"trials to run: {proposer.agenda}")
    samples = preloaded(config, config.recovery.steps, session.say)
    tracker = session.track(context.evalset.classes, before)
    copies: list[Replica] = [tracker]
    if (storage := study_uri(study, session.folder)) is not None:
        copies.append(StudyReplica(storage, config.name, proposer.space, session.warn))
        for row in before:
            copies[-1].log(row)
    outcome = _run(session, context, samples, proposer, copies)
    found = _ended(session, outcome, copies[1:])
    _print(session, found)
    tracker.attach([session.folder / "sweep.yaml", *_drawn(session, found, proposer.trials_done)])
    return found, outcome.finished


def _run(
    session: Session, context: SweepContext, samples: Samples | None, proposer: Proposer, copies: Sequence[Replica]
) -> Outcome:
    """Run the trials; copies get every row as it comes."""
    with closing(proposer), SweepProgress(proposer, session.console) as progress:

        def on_row(row: Row) -> None:
            for copy in copies:
                copy.log(row)
            progress.row(row)

        return run_sweep(context, samples, session.store, proposer, on_row)


def _ended(session: Session, outcome: Outcome, copies: Sequence[Replica]) -> SweepView:
    """Leave the cluster, and complete the copies: first MLflow, as a stopped Ray job has seconds to end."""
    if outcome.finished:
        session.store.finish()
    session.leave()
    found = SweepView(
        session.folder.name, session.config, session.store.rows()
    )  # with those written as the sweep stopped
    members = final_front(found.rows, session.config.search.budget)
    session.finish([*members, *refined_front(found.rows)], outcome.finished, front_volume(members, found.rows))
    for copy in copies:
        copy.close()
    return found


def _print(session: Session, found: SweepView) -> None:
    """Print the front, the best at each budget, and how far cheap measurements agree with costly ones."""
    config, rows, say = found.config, found.rows, session.say
    session.console.print(tables.front_table(found.comparisons, config.search.cost_metric == "latency", origins(rows)))
    if budgets := at_budgets(rows, config.search.baselines, config.search.budget):
        session.console.print(tables.budget_table(budgets, origins(rows)))
    for objective, rho in first_agreement(rows).items():
        say(f"first images ranked {objective} like the whole search stage: Spearman {rank_text(rho)}")
    if stopped := sum(row.status == "stopped" for row in rows):
        say(f"stopped after the first images, as they could not reach the front: {stopped} trials")
    for objective, rho in stage_agreement(rows).items():
        say(f"search stage ranked {objective} like the full set: Spearman {rank_text(rho)}")
    say(comparability(config, final_stage(rows)))


def _drawn(session: Session, found: SweepView, trials: int) -> list[AnyPath]:
    """Write the picture and the page, and say where they are."""
    config, folder = found.config, session.folder
    page, picture = folder / "report.html", folder / "front.png"
    write_sweep_page([found], page)
    what = "latency" if config.search.cost_metric == "latency" else "GFLOPs"
    title = f"{config.name}: {trials} trials, budget {config.search.budget:.0%} of the dense {what}"
    plot_front(found.rows, config.search.budget, title, picture)
    session.say(f"rows:   {folder / 'trials'}/*.parquet\nplot:   {picture}\nreport: {page}")
    return [picture, page]
