# SPDX-License-Identifier: Apache-2.0
"""Measure solutions of a finished search at both stages, and add their rows to the sweep."""

from raycomp.cluster import placement
from raycomp.jobs.refining import line
from raycomp.jobs.session import Session
from raycomp.refine.rerank import ProposalList
from raycomp.report.page.sweep_page import write_sweep_page
from raycomp.report.plot import plot_front
from raycomp.report.sweep_view import SweepView
from raycomp.results.query import front_volume, refined_front
from raycomp.results.row import Row
from raycomp.search.confirmation import Confirmation
from raycomp.search.sweep import run_sweep
from raycomp.training_loop import preloaded


def confirm(session: Session, confirmation: Confirmation) -> list[Row]:
    """Measure what remains of the solutions, update plot and page, and return the rows of the sweep.

    Raises:
        UserError: If the cluster has no room, or checkpoint or images are not those of the sweep's rows.
        KeyboardInterrupt: After an interruption; the same command resumes.
    """
    config, folder, store, say = session.config, session.folder, session.store, session.say
    placement.announce(config, say, session.warn)
    before = store.rows()
    context = session.prepared([row for row in before if row.stage != "benchmark"], open_store=False)
    samples = preloaded(config, config.recovery.steps, say)
    tracker = session.track(context.evalset.classes, before)
    proposals = confirmation.proposals(before)
    source = ProposalList(proposals, before)
    confirmation.save(folder)
    say(f"confirming {len(confirmation.solutions)} solution(s): {len(proposals)} measurement(s)")

    def on_row(row: Row) -> None:
        tracker.log(row)
        say(f"{len(proposals) - source.remaining}/{len(proposals)} measured, {row.stage} stage: {line(row)}")

    run_sweep(context, samples, store, source, on_row)
    if not source.finished:
        raise KeyboardInterrupt
    confirmation.forget(folder)
    session.leave()
    view = SweepView(folder.name, config, store.rows())
    write_sweep_page([view], folder / "report.html")
    plot_front(view.rows, config.search.budget, f"{config.name}: front with confirmed solutions", folder / "front.png")
    session.finish([*view.front, *refined_front(view.rows)], store.is_finished, front_volume(view.front, view.rows))
    tracker.attach([folder / "report.html", folder / "front.png"])
    return list(view.rows)
