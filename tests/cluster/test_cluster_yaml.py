# SPDX-License-Identifier: Apache-2.0
"""cluster.yaml, by Ray's own schema, defaults and scheduler; nothing is launched."""

import re
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(config):
    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "gpu_spot", "gpu_on_demand"}


def test_ray_would_refuse_a_misspelt_line(config):
    with pytest.raises(Exception, match=r"idle_timeout_minute'? was unexpected"):
        validate_config(prepare_config({**config, "idle_timeout_minute": 5}))


@pytest.mark.parametrize(
    ("trials", "failed", "launched"),
    [
        (0, {}, {}),
        (3, {}, {"gpu_spot": 3}),
        (3, {"gpu_spot": 0.0}, {"gpu_on_demand": 3}),  # a launch of that type failed a moment ago
        (30, {}, {"gpu_spot": 8}),
    ],
)
def test_gpu_machines_come_with_demand_spot_first(config, trials, failed, launched):
    """Ray's scheduler on this file: which machines it launches for so many trials of a GPU each."""
    cluster = AutoscalingConfig(config, skip_content_hash=True)
    trial = ResourceRequestUtil.make({"CPU": 1, "GPU": 1})
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=cluster.get_node_type_configs(),
        max_num_nodes=cluster.get_max_num_worker_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([trial] * trials),
        recoverable_resource_availabilities=failed,
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == launched


def test_both_kinds_of_gpu_machine_are_alike_but_for_the_market(config):
    types = config["available_node_types"]
    spot, on_demand = types["gpu_spot"], types["gpu_on_demand"]
    assert types["head"]["resources"]["CPU"] == 0
    assert spot["resources"] == on_demand["resources"]
    assert spot["max_workers"] == on_demand["max_workers"] == config["max_workers"]
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot["node_config"] == on_demand["node_config"]


def test_the_image_holds_the_ray_that_is_pinned(config):
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert config["docker"]["image"].startswith(f"rayproject/ray:{pinned[1]}-py311")


def test_nothing_listens_beyond_loopback_and_a_token_is_asked_for(config):
    head, worker = " ".join(config["head_start_ray_commands"]), " ".join(config["worker_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "mlflow server --host 127.0.0.1" in head
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker
    assert "0.0.0.0" not in head + worker
    assert any("auth_token" in path for path in config["file_mounts"])
