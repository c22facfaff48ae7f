# SPDX-License-Identifier: Apache-2.0
"""What a trial does where a card is full, or broken. The card is pretended: errors are raised where CUDA would."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from raycomp.evaluate.measure import measure
from raycomp.recipe import dense
from raycomp.results.row import SCHEMA
from raycomp.search import trial
from raycomp.search.proposal import Proposal
from raycomp.search.trial import DeviceLost, run_trial

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TIMES = {"started", "seconds", "seconds_build", "seconds_measure", "latency_ms", "throughput"}
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def proposal(context) -> Proposal:
    return Proposal(0, "search", "reference", "", dense(context.shape))


def with_search(context, **search):
    return replace(context, config=context.config.changed("search", **search))


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize(("room", "batch"), [(32, 32), (9, 8), (1, 1)])
def test_a_full_card_halves_the_batch_and_changes_no_result(context, tmp_path, monkeypatch, error, room, batch):
    wanted = run_trial(context, None, proposal(context), tmp_path, CPU, "")
    held = []

    def crowded(model, evalset, stage, settings, *others):
        if settings.batch > room:
            activations = torch.zeros(8)
            held.append(weakref.ref(activations))
            raise type(error)(*error.args)  # a new one, which no other frame holds
        assert all(tensor() is None for tensor in held), "what failed still holds its memory"
        return measure(model, evalset, stage, settings, *others)

    monkeypatch.setattr(trial, "measure", crowded)
    row = run_trial(context, None, proposal(context), tmp_path, CPU, "")
    assert (wanted.batch, row.batch, row.status) == (32, batch, "complete")
    same = {*SCHEMA.names} - TIMES - {"batch", "per_image"}
    measured, expected = ({name: one.columns()[name] for name in same} for one in (row, wanted))
    np.testing.assert_equal(measured, expected)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("where", ["measure", "recovered"])
def test_a_card_without_memory_for_a_batch_of_one_or_for_training_is_lost(context, tmp_path, monkeypatch, where, error):
    calls = []

    def full(*arguments):
        calls.append(arguments)
        raise error

    monkeypatch.setattr(trial, where, full)
    with pytest.raises(DeviceLost, match=str(error)[:20]):
        run_trial(context, None, proposal(context), tmp_path, CPU, "")
    assert len(calls) == (6 if where == "measure" else 1)  # batches of 32, 16, 8, 4, 2, 1; training is not tried again


@pytest.mark.parametrize("answers", [True, False])
def test_another_error_of_a_card_fails_the_recipe_or_ends_the_worker(context, tmp_path, monkeypatch, answers):
    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(trial, "recovered", lambda context, recipe, *_: context.cut(recipe))  # not on the card
    monkeypatch.setattr(trial, "measure", broken)
    monkeypatch.setattr(trial, "device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(trial, "responds", lambda device: answers)
    if not answers:
        with pytest.raises(DeviceLost, match="illegal memory access"):
            run_trial(context, None, proposal(context), tmp_path, CUDA, "")
        return
    row = run_trial(context, None, proposal(context), tmp_path, CUDA, "")
    assert (row.status, row.device) == ("failed", "NVIDIA H100")
    assert "illegal memory access" in row.error


@pytest.mark.parametrize(
    ("gpus", "alone"), [(None, True), (0, True), (0.25, False), (0.999, False), (1, True), (2, True)]
)
def test_latency_is_measured_only_by_a_trial_that_has_its_card_alone(context, tmp_path, gpus, alone):
    row = run_trial(with_search(context, gpus_per_trial=gpus), None, proposal(context), tmp_path, CPU, "")
    assert row.device == "cpu"
    assert row.throughput > 0
    assert (row.latency_ms is not None) == alone
