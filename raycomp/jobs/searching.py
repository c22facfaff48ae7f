# SPDX-License-Identifier: Apache-2.0
"""Run a search and write its results: rows, tables, plot, page, and replicas in MLflow and Optuna."""

from collections.abc import Sequence
from contextlib import closing

from raycomp.cluster import placement
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
from raycomp.search.schedule import probe_trials
from raycomp.search.study_replica import StudyReplica, study_uri
from raycomp.search.sweep import run_sweep
from raycomp.space import Space
from raycomp.storage import AnyPath
from raycomp.training_loop import preloaded


def search(session: Session, study: str | None) -> tuple[SweepView, bool]:
    """Run or resume a search, then print and plot its results.

    Args:
        study: URI of the Optuna study; None for the default.

    Returns:
        The results, and whether the sweep is finished. After an interruption the same command resumes.

    Raises:
        UserError: If the sweep cannot resume from its rows, or the dense model cannot be measured.
    """
    config, before = session.config, session.store.rows()
    placement.announce(config, session.say, session.warn, "--gpus")
    context = session.prepared(before)
    space = Space.of(config, context.shape, context.latency)
    measurable = None if context.elastic is None else context.elastic.space
    proposer = Proposer(space, config.search, before, measurable, probe_trials(config))
    if before:
        session.say(f"{session.folder}: {proposer.trials_done} of {config.search.trials} trials done, resuming")
    session.say(f"trials to run: {proposer.agenda}")
    samples = preloaded(config, config.recovery.steps, session.say)
    tracker = session.track(context.evalset.classes, before)
    replicas: list[Replica] = [tracker]
    if (storage := study_uri(study, session.folder)) is not None:
        replicas.append(StudyReplica(storage, config.name, proposer.space, session.warn))
        for row in before:
            replicas[-1].log(row)
    with closing(proposer):  # waits for the running ask, so complete the replicas before
        with SweepProgress(proposer, session.console) as progress:

            def on_row(row: Row) -> None:
                for replica in replicas:
                    replica.log(row)
                progress.row(row)

            run_sweep(context, samples, session.store, proposer, on_row, on_request=progress.request)
        view = _finish(session, proposer.finished, replicas[1:])
    _print(session, view)
    tracker.attach([session.folder / "sweep.yaml", *_draw(session, view, proposer.trials_done)])
    return view, proposer.finished


def _finish(session: Session, finished: bool, replicas: Sequence[Replica]) -> SweepView:
    """Leave the cluster and complete the replicas, MLflow first, as a stopped Ray job has only seconds to end."""
    if finished:
        session.store.finish()
    session.leave()
    rows = session.store.rows()  # including those written while the sweep stopped
    members = final_front(rows, session.config.search.budget)
    session.finish([*members, *refined_front(rows)], finished, front_volume(members, rows))
    for replica in replicas:
        replica.close()
    return SweepView(session.folder.name, session.config, rows)


def _print(session: Session, view: SweepView) -> None:
    """Print the front, the best recipe at each budget, and how well cheap measurements predict expensive ones."""
    config, rows, say = view.config, view.rows, session.say
    session.console.print(tables.front_table(view.comparisons, config.search.cost_metric == "latency", origins(rows)))
    if budgets := at_budgets(rows, config.search.shares(view.share), config.search.budget):
        session.console.print(tables.budget_table(budgets, origins(rows)))
    for objective, rho in first_agreement(rows).items():
        say(f"rank correlation of {objective} between first images and search stage: Spearman {rank_text(rho)}")
    if stopped := sum(row.status == "stopped" for row in rows):
        say(f"{stopped} trials stopped after the first images, as they could not reach the front")
    for objective, rho in stage_agreement(rows).items():
        say(f"rank correlation of {objective} between search stage and full set: Spearman {rank_text(rho)}")
    say(comparability(config, final_stage(rows)))


def _draw(session: Session, view: SweepView, trials: int) -> list[AnyPath]:
    """Write the plot and the page, and print their paths."""
    config, folder = view.config, session.folder
    page, plot = folder / "report.html", folder / "front.png"
    write_sweep_page([view], page)
    unit = "latency" if config.search.cost_metric == "latency" else "GFLOPs"
    title = f"{config.name}: {trials} trials, budget {view.share:.0%} of the dense {unit}"
    plot_front(view.rows, config.search.budget, title, plot)
    session.say(f"rows:   {folder / 'trials'}/*.parquet\nplot:   {plot}\nreport: {page}")
    return [plot, page]
