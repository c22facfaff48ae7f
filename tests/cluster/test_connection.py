# SPDX-License-Identifier: Apache-2.0
"""How many trials run at a time, by what a cluster has; and how a trial asks for memory."""

import os
import subprocess
import sys

import pytest
import ray
import torch

from raycomp.cluster import connection
from raycomp.errors import UserError
from tests.helpers.clusters import have
from tests.helpers.trials import CONFIG


@pytest.mark.parametrize(
    ("nodes", "search", "trials", "gpus"),
    [
        ([{"CPU": 8.0}], {}, 8, 0.0),
        ([{"CPU": 8.0, "GPU": 2.0}], {}, 2, 1.0),
        ([{"CPU": 8.0, "GPU": 2.0}], {"gpus_per_trial": 0.25}, 8, 0.25),  # four on a GPU
        ([{"CPU": 8.0, "GPU": 2.0}], {"gpus_per_trial": 0.6}, 2, 0.6),  # not three: none is of two cards
        ([{"CPU": 99.0, "GPU": 1.0}], {"gpus_per_trial": 0.1}, 10, 0.1),
        ([{"CPU": 3.0, "GPU": 1.0}], {"gpus_per_trial": 0.25}, 3, 0.25),  # a core each
        ([{"CPU": 8.0, "GPU": 3.0}, {"CPU": 8.0, "GPU": 1.0}], {"gpus_per_trial": 2}, 1, 2.0),
        ([{"CPU": 8.0, "GPU": 2.0}], {"gpus_per_trial": 0}, 8, 0.0),
        ([{"CPU": 8.0, "GPU": 2.0}], {"workers": 3}, 3, 1.0),
        ([{"CPU": 8.0, "memory": 7.0 * 2**30}], {"memory_per_trial": 2}, 3, 0.0),
        ([], {}, 1, 0.0),
        ([], {"workers": 8, "gpus_per_trial": 1}, 8, 1.0),  # a cluster that is still to grow
    ],
)
def test_trials_at_a_time(monkeypatch, nodes, search, trials, gpus):
    have(monkeypatch, *nodes)
    config = CONFIG.changed("search", **search)
    assert connection.workers(config) == trials
    wanted = connection.trial_resources(config)
    assert (wanted["CPU"], wanted["GPU"]) == (1, gpus)


def test_memory_is_asked_for_in_bytes(monkeypatch):
    have(monkeypatch, {"CPU": 2.0})
    assert connection.trial_resources(CONFIG.changed("search", memory_per_trial=1.5))["memory"] == 1.5 * 2**30
    assert "memory" not in connection.trial_resources(CONFIG)


def test_a_gpu_that_torch_does_not_see_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [3])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        UserError, match=r"GPU 3 to a worker on .*, but torch .* does not see it .*; --gpus 0 runs trials on CPUs"
    ):
        connection.prepare_worker()
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    assert connection.prepare_worker() == torch.device("cpu")


@pytest.mark.slow
def test_ray_may_be_imported_first(tmp_path):
    """Ray reads RAY_AUTH_MODE when it is imported: set after that, it would hold for Ray's processes alone."""
    program = (
        "import ray; from raycomp.cluster.connection import connect; connect(); print(ray.cluster_resources()['CPU'])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp")}  # no token there
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
