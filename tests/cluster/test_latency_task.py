# SPDX-License-Identifier: Apache-2.0
"""A latency table that a sweep kept, where its workers have another device now."""

from dataclasses import replace

import pytest
import torch

from raycomp.cluster import latency_task
from raycomp.evaluate.latency_table import measure_latency
from tests.conftest import TINY

SMALL = TINY.model_copy(update={"image": (16, 16)})


@pytest.fixture(scope="module")
def table():
    return measure_latency(SMALL, 1, torch.device("cpu"), torch.float32, time=lambda *_: 1.0)


@pytest.mark.parametrize("batch", [1, 3])
def test_models_are_timed_at_the_batch_of_the_settings(context, tmp_path, monkeypatch, batch):
    class Task:
        def remote(self, context, *options):
            return options

    def measured(options):
        assert options == (batch, True)
        return measure_latency(SMALL, batch, torch.device("cpu"), torch.float32, time=lambda *_: 1.0)

    monkeypatch.setattr(latency_task, "remote", lambda function, config, retries: Task())
    monkeypatch.setattr(latency_task, "result", measured)
    own = replace(context, shape=SMALL, config=context.config.changed("search", latency_batch=batch))
    timed = latency_task.with_latency(own, tmp_path, lambda _: None)
    assert f"batch {batch}" in timed.latency.setting


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
    kept = latency_task.latency_table(tmp_path / "latency_task.json", context, context.config, 1, False, lines.append)
    assert kept.device == timed_on
    assert len(lines) == (says is not None)
    assert says is None or says in lines[0]
