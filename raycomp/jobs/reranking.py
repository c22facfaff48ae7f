# SPDX-License-Identifier: Apache-2.0
"""Measure dense model, baselines and front of a finished sweep elsewhere, and report how well their ranking holds."""

from collections.abc import Sequence

from raycomp.cluster import placement
from raycomp.jobs.refining import line
from raycomp.jobs.session import Session
from raycomp.refine.rerank import ProposalList, check_int8
from raycomp.report import tables
from raycomp.report.compare import rank_text
from raycomp.report.page.sweep_page import write_sweep_page
from raycomp.report.sweep_view import SweepView
from raycomp.results.query import agreement, front_volume, origins
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.search.sweep import run_sweep
from raycomp.training_loop import preloaded


def rerank(session: Session, before: SweepView, proposals: Sequence[Proposal]) -> Sequence[Row]:
    """Measure the proposals, print their front, and compare their ranking with that of the sweep `before`.

    Raises:
        UserError: If the cluster has no room, or the dense model cannot be measured.
        KeyboardInterrupt: After an interruption; the same command resumes.
    """
    config, folder, say = session.config, session.folder, session.say
    placement.announce(config, say, session.warn)
    quantises = check_int8(config, proposals)
    done = session.store.rows()
    context = session.prepared(done, quantises=quantises)
    samples = preloaded(config, config.recovery.steps, say)
    tracker = session.track(context.evalset.classes, done)
    source, count = ProposalList(proposals, done), len(proposals)
    where = f"{config.data.dataset} {config.data.eval_split}"
    say(f"measuring {source.remaining} of {count} recipes of {before.name} on {where}")

    def on_row(row: Row) -> None:
        tracker.log(row)
        say(f"recipe {count - source.remaining}/{count} measured: {line(row)}")

    run_sweep(context, samples, session.store, source, on_row)
    if not source.finished:
        raise KeyboardInterrupt
    session.leave()
    rows = list(source.rows.values())
    view = SweepView(folder.name, config, rows)
    timed = config.search.cost_metric == "latency"
    session.console.print(tables.front_table(view.comparisons, timed, origins(view.rows)))
    for objective, rho in agreement(before.rows, rows).items():
        say(f"rank correlation of {objective} between {before.name} and this run: Spearman {rank_text(rho)}")
    page = folder / "report.html"
    write_sweep_page([view, before], page)
    session.store.finish()
    session.finish(view.front, True, front_volume(view.front, rows))
    tracker.attach([page])
    say(f"rows:   {folder / 'trials'}/*.parquet\nreport: {page}")
    return rows
