# SPDX-License-Identifier: Apache-2.0
"""Workers in a Ray of the test's own, with GPUs that Ray is told of and torch does not see."""

import os
from dataclasses import replace
from threading import Timer

import pytest
import ray
import torch

from raycomp.cluster import saliency_task
from raycomp.context.calibration import score
from raycomp.errors import UserError
from raycomp.recipe import dense
from raycomp.refine.rerank import ProposalList
from raycomp.results import steering
from raycomp.results.store import Store
from raycomp.search import sweep
from raycomp.search.proposal import Proposal
from raycomp.search.rows import described
from raycomp.search.sweep import run_sweep
from raycomp.search.trial import DeviceLost
from tests.conftest import seeded_model
from tests.helpers.contexts import TWO_CLASSES, labelled_folder

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def own_ray():
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Losing(sweep.Trial):
    """Loses its device as often as a recipe's label says, and writes which process measured."""

    def setup(self, config, **parameters):  # type: ignore[override]
        super().setup(config, **parameters)
        vars(sweep)["run_trial"] = self.measured

    def measured(self, context, samples, proposal, folder, device, commit):
        marks = folder / "marks"
        with marks.open("a") as file:
            file.write(f"{proposal.number} {os.getpid()}\n")
        runs = [line.split()[0] for line in marks.read_text().splitlines()]
        if runs.count(str(proposal.number)) <= int(proposal.label):
            raise DeviceLost("AcceleratorError: CUDA error: an illegal memory access was encountered")
        return replace(described(context, proposal), status="complete", error="")


def sweep_of(context, folder, losses, **search):
    """The context, store and source of a sweep by one worker of recipes whose workers are lost so often."""
    proposals = [
        Proposal(number, "full", "reference" if number == 0 else "baseline", str(times), recipe)
        for number, times in enumerate(losses)
        for recipe in [dense(context.shape).model_copy(update={"embed": context.shape.width - 8 * number})]
    ]
    own = replace(context, config=context.config.changed("search", workers=1, gpus_per_trial=0, **search))
    store = Store(folder)
    store.open(own.config)
    return own, store, ProposalList(proposals, [])


def measured(context, folder, losses, **search):
    """Run such a sweep: its rows by number, and who ran what."""
    own, store, source = sweep_of(context, folder, losses, **search)
    run_sweep(own, None, store, source, lambda row: None, Losing)
    assert source.finished
    return {row.number: row for row in source.rows.values()}, (folder / "marks").read_text().splitlines()


def test_a_worker_that_loses_its_device_ends_and_another_takes_the_trial(context, tmp_path):
    rows, runs = measured(context, tmp_path, (0, 1, 0, 9, 0), max_failures=2)
    assert [rows[number].status for number in range(5)] == ["complete"] * 3 + ["failed", "complete"]
    assert rows[3].error == (
        "the trial ended its worker 3 times (search.max_failures), the last time with "
        "AcceleratorError: CUDA error: an illegal memory access was encountered"
    )
    ran = [line.split() for line in runs]
    assert [number for number, _ in ran].count("1") == 2
    assert [number for number, _ in ran].count("3") == 3
    losses = [pid for number, pid in ran if number == "3"] + [next(pid for number, pid in ran if number == "1")]
    assert len(set(losses)) == 4, "a worker went on after it lost its device"


def test_a_sweep_pauses_goes_on_and_stops_when_asked(context, tmp_path, monkeypatch):
    monkeypatch.setattr(steering, "_EVERY", 0.0)
    own, store, source = sweep_of(context, tmp_path, (0,) * 6)
    seen = []

    def on_row(row):
        if row.number == 1:
            store.steering.ask("pause")
        if row.number == 3:
            store.steering.ask("stop")

    def on_request(request):
        seen.append((request, len(source.rows)))
        if request == "pause":
            Timer(2, store.steering.ask, [""]).start()

    run_sweep(own, None, store, source, on_row, Losing, on_request)
    assert seen == [("pause", 2), ("", 2), ("stop", 4)]
    assert not source.finished
    assert len(store.rows()) == 4
    store.lock.drop()
    again = Store(tmp_path)
    again.open(own.config)
    run_sweep(own, None, again, source, lambda row: None, Losing)
    assert source.finished
    assert len(again.rows()) == 6


def test_saliency_by_a_worker_is_that_of_the_driver(tmp_path, monkeypatch):
    """The task is told of no GPU, and would use one where trials do."""
    monkeypatch.setenv("RAYCOMP_CACHE", str(tmp_path))
    model, settings = seeded_model(TWO_CLASSES), labelled_folder(tmp_path / "data", (True, True, True))
    monkeypatch.setattr(saliency_task, "gpus_per_trial", lambda _: 1.0)
    settings = settings.changed("search", gpus_per_trial=0)
    found = saliency_task.saliency_by_worker(model, settings, "nvit", tmp_path / "x.part")
    wanted = score(model, settings, CPU, "nvit")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_what_is_wrong_with_a_gpu_is_one_line_of_the_sweep_and_of_saliency(context, tmp_path, monkeypatch):
    settings = labelled_folder(tmp_path / "data", (True,)).changed("search", gpus_per_trial=0.5)
    problem = r"^Ray assigned GPU 0 to a worker on \S+, but torch \S+ does not see it"
    with pytest.raises(UserError, match=problem):
        saliency_task.saliency_by_worker(seeded_model(TWO_CLASSES), settings, "nvit", tmp_path / "x.part")
    own, store = (
        replace(context, config=context.config.changed("search", gpus_per_trial=0.5)),
        Store(tmp_path / "sweep"),
    )
    store.open(own.config)
    first = Proposal(0, "search", "reference", "", dense(context.shape))
    with pytest.raises(UserError, match=problem):
        run_sweep(own, None, store, ProposalList([first], []), lambda row: None)
