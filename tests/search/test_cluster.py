"""How many trials run at a time, by what a cluster has; and how a trial asks for memory."""

import pytest
import ray

from raycomp.config import SweepConfig
from raycomp.search import cluster
from raycomp.search.sweep import _resources
from raycomp.sections import DataConfig, ModelConfig

CONFIG = SweepConfig(name="tiny", model=ModelConfig(checkpoint="x"), data=DataConfig(dataset="streetscenes"))


@pytest.mark.parametrize(
    ("there", "search", "trials", "gpus"),
    [
        ({"CPU": 8.0}, {}, 8, 0.0),
        ({"CPU": 8.0, "GPU": 2.0}, {}, 2, 1.0),
        ({"CPU": 8.0, "GPU": 2.0}, {"gpus_per_trial": 0.25}, 8, 0.25),  # four on a GPU
        ({"CPU": 8.0, "GPU": 2.0}, {"gpus_per_trial": 0}, 8, 0.0),
        ({"CPU": 8.0, "GPU": 2.0}, {"workers": 3}, 3, 1.0),
        ({}, {}, 1, 0.0),
        ({}, {"workers": 8, "gpus_per_trial": 1}, 8, 1.0),  # a cluster that is still to grow
    ],
)
def test_trials_at_a_time(monkeypatch, there, search, trials, gpus):
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    config = CONFIG.changed("search", **search)
    assert cluster.workers(config) == trials
    assert _resources(config) == {"cpu": 1, "gpu": gpus}
    assert cluster.is_empty() == (not there)


def test_memory_is_asked_for_in_bytes(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    assert _resources(CONFIG.changed("search", memory_per_trial=1.5))["memory"] == 1.5 * 2**30
