"""Measure dense, baselines and front of a finished sweep elsewhere, and say how well their order holds."""

from collections.abc import Sequence

from raycomp.cluster import placement
from raycomp.jobs.refining import line
from raycomp.jobs.session import Session
from raycomp.refine.rerank import Given
from raycomp.report import tables
from raycomp.report.compare import rank_text
from raycomp.report.page.sweep_page import write_sweep_page
from raycomp.report.sweep_view import SweepView
from raycomp.results.query import agreement, front_volume, origins
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.sweep import run_sweep
from raycomp.training_loop import preloaded


def rerank(session: Session, before: SweepView, wanted: Sequence[Proposal]) -> Sequence[Row]:
    """Measure the proposals, print the front that they make, and compare their order with that of a sweep before.

    Raises:
        UserError: where the cluster has no room, or the dense model could not be measured.
        KeyboardInterrupt: after an interruption; the same command goes on.
    """
    config, folder, say = session.config, session.folder, session.say
    placement.announce(config, say, session.warn)
    done = session.store.rows()
    context = session.timed(session.prepared(done))
    samples = preloaded(config, config.recovery.steps, say)
    tracker = session.track(context.evalset.classes, done)
    given, count = Given(wanted, done), len(wanted)
    where = f"{config.data.dataset} {config.data.eval_split}"
    say(f"measuring {given.remaining} of {count} recipes of {before.name} on {where}")

    def on_row(row: Row) -> None:
        tracker.log(row)
        say(f"recipe {count - given.remaining}/{count} measured: {line(row)}")

    outcome = run_sweep(context, samples, session.store, given, on_row)
    if not outcome.finished:
        raise KeyboardInterrupt
    session.leave()
    found = SweepView(folder.name, config, outcome.rows)
    timed = config.search.cost_metric == "latency"
    session.console.print(tables.front_table(found.comparisons, timed, origins(found.rows)))
    for objective, rho in agreement(before.rows, outcome.rows).items():
        say(f"{before.name} ranked {objective} as it is here: Spearman {rank_text(rho)}")
    page = folder / "report.html"
    write_sweep_page([found, before], page)
    session.store.finish()
    session.finish(found.front, True, front_volume(found.front, outcome.rows))
    tracker.attach([page])
    say(f"rows:   {folder / 'trials'}/*.parquet\nreport: {page}")
    return outcome.rows
