# SPDX-License-Identifier: Apache-2.0
"""What is said of the workers before the first trial, and what a cluster of fixed size refuses."""

import json
from pathlib import Path

import pytest
import torch

from raycomp.cluster import placement
from raycomp.errors import UserError
from tests.helpers.clusters import have
from tests.helpers.trials import CONFIG

H100 = {"CPU": 16.0, "GPU": 1.0, "memory": 64.0 * 2**30, "accelerator_type:H100": 1.0}
CPUS = {"CPU": 2.0, "memory": 8.0 * 2**30}


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch):
    """No GPU on this machine, whatever it has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: exists(path) and path != Path("/dev/nvidia0"))


def told(search: dict[str, float]) -> tuple[list[str], list[str]]:
    """What is said, and what is warned of."""
    said: list[str] = []
    warned: list[str] = []
    placement.announce(CONFIG.changed("search", **search), said.append, warned.append, "--gpus")
    return said, warned


def test_int8_is_not_measured_on_gpus(monkeypatch):
    config = CONFIG.changed("search", cost_metric="latency", latency_engine="onnxruntime")
    config = config.changed("space", merge="tome", precision=("fp32", "int8"))
    have(monkeypatch, H100)
    with pytest.raises(UserError, match=r"^space\.precision int8 is measured on CPUs alone; expected --gpus 0, not 1$"):
        placement.announce(config, print, print, "--gpus")
    placement.announce(config.changed("search", gpus_per_trial=0), print, print, "--gpus")


@pytest.mark.parametrize(
    ("nodes", "search", "line"),
    [
        ([H100], {}, "trials run on 1 worker of 1 GPU each (H100)"),
        ([H100], {"gpus_per_trial": 0.25}, "trials run on 4 workers of 0.25 GPU each (H100)"),
        (
            [H100],
            {"gpus_per_trial": 0.5, "workers": 4},
            "trials run on 2 workers of 0.5 GPU each (H100); the cluster has no room for 4 now (--workers)",
        ),
        ([H100], {"gpus_per_trial": 0}, "trials run on 16 CPU workers: --gpus is 0, which leaves 1 GPU(s) unused"),
        ([CPUS], {}, "trials run on 2 CPU workers: Ray sees no GPU"),
        ([CPUS], {"workers": 1}, "trials run on 1 CPU worker: Ray sees no GPU"),
        (
            [],
            {},
            "the cluster has no workers yet; running one trial at a time. Set --workers for more",
        ),
    ],
)
def test_a_line_says_what_trials_run_on(monkeypatch, nodes, search, line):
    have(monkeypatch, *nodes)
    (said,), warned = told(search)
    assert (said.startswith(line), warned) == (True, []), said


@pytest.mark.parametrize(
    ("node", "search", "problem", "nearest"),
    [
        (CPUS, {"gpus_per_trial": 0.25}, "--gpus 0.25: Ray sees no GPU", "--gpus 0"),
        (H100, {"gpus_per_trial": 2}, "--gpus 2: no node has more than 1", "--gpus 1"),
        (
            H100,
            {"memory_per_trial": 64.5},
            "search.memory_per_trial 64.5: no node has more than 64 GiB for trials",
            "64",
        ),
    ],
)
def test_what_no_node_has_is_refused_or_waited_for(monkeypatch, node, search, problem, nearest):
    have(monkeypatch, node)
    monkeypatch.setattr(placement, "may_grow", lambda: True)
    assert told(search) == ([], [f"{problem}; waiting for the cluster to grow"])
    monkeypatch.setattr(placement, "may_grow", lambda: False)
    with pytest.raises(UserError) as refused:
        told(search)
    assert str(refused.value) == f"{problem}; did you mean {nearest}?"


def test_more_than_one_gpu_is_whole_ones(monkeypatch):
    have(monkeypatch, H100 | {"GPU": 4.0})
    with pytest.raises(UserError, match=r"--gpus 1\.6: .*; did you mean 2\?"):
        told({"gpus_per_trial": 1.6})


def test_a_gpu_that_ray_does_not_see_is_told_of(monkeypatch):
    have(monkeypatch, CPUS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (said,), _ = told({})
    assert said.endswith("(torch sees one: was Ray started with --num-gpus=0?)")


def test_workers_that_train_together_have_a_device_each(monkeypatch):
    have(monkeypatch, H100)
    monkeypatch.setattr(placement, "may_grow", lambda: False)
    placement.check_training(1, True, pytest.fail)
    with pytest.raises(UserError, match=r"refine\.workers 2: each needs a GPU, the cluster has 1; did you mean 1"):
        placement.check_training(2, True, pytest.fail)


@pytest.mark.parametrize(
    ("mapping", "grows"),
    [
        ({"a1": "node_a1", "b2": "node_b2"}, False),  # started by hand
        ({"10.0.0.1": "ray.head.default"}, True),  # by `ray up`
        ({}, True),  # not known yet
    ],
)
def test_an_autoscaler_is_known_by_the_types_of_nodes(monkeypatch, mapping, grows):
    status = json.dumps({"autoscaler_report": {"node_type_mapping": mapping}}).encode()
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda key: status)
    monkeypatch.setattr(placement, "joined", lambda: None)
    assert not placement.may_grow()
    monkeypatch.setattr(placement, "joined", lambda: "127.0.0.1:6379")
    assert placement.may_grow() == grows
