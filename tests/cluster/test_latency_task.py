# SPDX-License-Identifier: Apache-2.0
"""A latency table that a sweep kept, where its workers have another device now."""

from dataclasses import replace
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

from raycomp.cluster import latency_task
from raycomp.deploy.latency_fit import drawn, fitted
from tests.conftest import TINY
from tests.helpers.tables import table_of

SMALL = TINY.model_copy(update={"image": (16, 16)})


@pytest.fixture(scope="module")
def table():
    return table_of(SMALL, model=1.0)


@pytest.mark.parametrize(
    ("search", "setting"),
    [
        ({}, "cpu, torch {torch}, batch 1, 1 thread, 16x16 px"),
        ({"latency_batch": 3, "latency_threads": 2}, "cpu, torch {torch}, batch 3, 2 threads, 16x16 px"),
        ({"latency_engine": "onnxruntime"}, "cpu, onnxruntime {onnxruntime}, batch 1, 1 thread, 16x16 px"),
    ],
)
def test_models_are_timed_as_the_settings_say(context, tmp_path, monkeypatch, search, setting):
    requested, lines = [], []

    def remote(function, config, retries, cpus=1):
        requested.append(cpus)
        return SimpleNamespace(remote=partial(function, device=torch.device("cpu")))

    monkeypatch.setattr(latency_task, "remote", remote)
    monkeypatch.setattr(latency_task, "result", lambda table: table)
    monkeypatch.setattr(latency_task, "gpus_per_trial", lambda _: 0)
    monkeypatch.setattr(latency_task, "finished", iter)
    monkeypatch.setattr(latency_task, "drawn", partial(drawn, count=1))
    monkeypatch.setattr(latency_task, "fitted", partial(fitted, models=1))
    config = context.config.changed("search", **search)
    if "latency_engine" in search:
        config = config.changed("search", cost_metric="latency").changed("space", precision=("fp32", "int8"))
    own = replace(context, shape=SMALL, config=config)
    timed = latency_task.with_latency(own, tmp_path, lines.append)
    assert timed.latency.setting == setting.format(**{name: version(name) for name in ("torch", "onnxruntime")})
    assert timed.latency.costs.keys() == {"fp32", *(("int8",) if "latency_engine" in search else ())}
    assert requested[-1] == search.get("latency_threads", 1)
    told = [line for line in lines if line.startswith("exported")]
    assert told == (["exported 1 of 2 models for onnxruntime", "exported 2 of 2 models for onnxruntime"]
                    if "latency_engine" in search else [])  # fmt: skip
    assert lines[0].startswith("timing 2 models of the space in ")
    assert timed.latency.about in lines[-1]
    again = latency_task.with_latency(own, tmp_path, lines.append)
    assert again.latency == timed.latency
    assert lines[-2:] == [lines[-1]] * 2, "the second time it is read"


@pytest.mark.parametrize(
    ("timed_on", "gpus", "card", "says"),
    [
        ("cpu", 0.0, "", None),
        ("NVIDIA H100", 0.5, "NVIDIA H100", None),
        ("NVIDIA H100", 1.0, "NVIDIA H100 PCIe", "timed on NVIDIA H100, but workers here have NVIDIA H100 PCIe: "),
        (
            "cuda",
            1.0,
            "NVIDIA L4",
            "timed on cuda, but workers here have NVIDIA L4: ",
        ),
        ("NVIDIA L4", 0.0, "", "timed on NVIDIA L4, but workers here have cpu: "),
    ],
)
def test_a_table_of_another_device_is_named(table, context, tmp_path, monkeypatch, timed_on, gpus, card, says):
    class Task:
        def remote(self):
            return card

    monkeypatch.setattr(latency_task, "gpus_per_trial", lambda _: gpus)
    monkeypatch.setattr(latency_task, "remote", lambda function, config, retries: Task())
    monkeypatch.setattr(latency_task, "result", lambda reference: reference)
    replace(table, device=timed_on).save(tmp_path / "latency_task.json")
    lines = []
    kept = latency_task.latency_table(tmp_path / "latency_task.json", context, context.config, False, lines.append)
    assert kept.device == timed_on
    assert len(lines) == (says is not None)
    assert says is None or says in lines[0]
