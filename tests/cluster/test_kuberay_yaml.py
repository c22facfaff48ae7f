# SPDX-License-Identifier: Apache-2.0
"""deploy/: fields, names and versions across its files, and Ray's scheduler on its clusters; nothing is launched."""

import copy
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CLUSTERS = ("rayjob.yaml", "raycluster.yaml")

# What these files use of ray.io/v1, from the Go types that KubeRay's CRDs are generated from (RayJob about 1.5,
# RayCluster after 1.6), and of Kubernetes' pods. `kubectl apply` refuses any other field; so does `check`.
STRINGS = {str: str}
POD = {
    "securityContext": {"fsGroup": int, "fsGroupChangePolicy": str},
    "containers": [
        {
            "name": str,
            "image": str,
            "resources": {"limits": STRINGS},
            "env": [{"name": str, "value": str}],
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
    "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
    "tolerations": [{"key": str, "operator": str, "effect": str}],
    "affinity": {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": int,
                    "preference": {"matchExpressions": [{"key": str, "operator": str, "values": [str]}]},
                }
            ]
        }
    },
}
CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"idleTimeoutSeconds": int},
    "headGroupSpec": {"serviceType": str, "rayStartParams": STRINGS, "template": {"spec": POD}},
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "rayStartParams": STRINGS,
            "template": {"spec": POD},
        }
    ],
}
HEADER = {"apiVersion": str, "kind": str, "metadata": {"name": str}}
FIELDS = {
    "rayjob.yaml": HEADER
    | {
        "spec": {
            "entrypoint": str,
            "backoffLimit": int,
            "shutdownAfterJobFinishes": bool,
            "rayClusterSpec": CLUSTER,
        }
    },
    "raycluster.yaml": HEADER | {"spec": CLUSTER},
    "volume.yaml": HEADER
    | {"spec": {"accessModes": [str], "storageClassName": str, "resources": {"requests": STRINGS}}},
}


def check(value: Any, fields: Any, path: str = "") -> None:
    """Raise a ValueError that names the first field that is unknown or of another type."""
    if isinstance(fields, list):
        for position, item in enumerate(value):
            check(item, fields[0], f"{path}[{position}]")
    elif isinstance(fields, dict):
        for key, item in value.items():
            if key not in fields and str not in fields:
                raise ValueError(f"{path}.{key} is unknown")
            check(item, fields.get(key, str), f"{path}.{key}")
    elif type(value) is not fields:
        raise ValueError(f"{path} is {value!r}, not {fields.__name__}")


def load(name: str, edited: bool = False) -> Any:
    """A file of deploy/; `edited`, with the lines in it that are commented out."""
    text = (DEPLOY / name).read_text()
    if edited:
        text = re.sub(r"^( +)# (?= *(?:- |[A-Za-z]+: *\S*$))", r"\1", text, flags=re.MULTILINE)
    return yaml.safe_load(text)


def cluster(name: str) -> Any:
    spec = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> list[Any]:
    """Head, then workers."""
    spec = cluster(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("name", sorted(FIELDS))
def test_fields_are_those_that_kubernetes_knows(name, edited):
    check(load(name, edited), FIELDS[name])


def test_a_misspelt_field_or_a_number_in_place_of_text_is_told():
    job = load("rayjob.yaml")
    misspelt, number = copy.deepcopy(job), copy.deepcopy(job)
    misspelt["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 2
    number["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(ValueError, match=r"spec\.rayClusterSpec\.workerGroupSpecs\[0\]\.maxReplica is unknown"):
        check(misspelt, FIELDS["rayjob.yaml"])
    with pytest.raises(ValueError, match=r"num-cpus is 0, not str"):
        check(number, FIELDS["rayjob.yaml"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_is_commented_out_is_an_mlflow_server_and_spot_nodes(name):
    spec = load(name, edited=True)["spec"]
    spec = spec.get("rayClusterSpec", spec)
    worker = spec["workerGroupSpecs"][0]["template"]["spec"]
    names = [variable["name"] for variable in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]]
    assert names == ["RAY_JOB_STOP_WAIT_TIME_S", "MLFLOW_TRACKING_URI"]
    assert "affinity" in worker
    assert [toleration["key"] for toleration in worker["tolerations"]] == ["nvidia.com/gpu", "spot"]


def test_both_clusters_are_the_same_and_so_are_their_comments():
    def body(name: str, first: str) -> list[str]:
        text = (DEPLOY / name).read_text()
        return [" ".join(line.split()) for line in text[text.index(first) :].splitlines()[1:]]

    assert body("rayjob.yaml", "  rayClusterSpec:") == body("raycluster.yaml", "spec:")
    assert cluster("rayjob.yaml") == cluster("raycluster.yaml")


@pytest.mark.parametrize("name", CLUSTERS)
def test_all_machines_mount_the_volume_that_all_can_write(name):
    claim = load("volume.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(name):
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"/mnt/raycomp": claim["metadata"]["name"]}
        assert pod["securityContext"]["fsGroup"] == 100


def test_the_image_is_that_of_the_dockerfile_with_the_pinned_ray():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    version = re.search(r'^version = "(\S+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    ray = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    base = re.search(r"^FROM (\S+)$", dockerfile, re.MULTILINE)
    assert version
    assert ray
    assert base
    assert base[1] == yaml.safe_load((ROOT / "cluster.yaml").read_text())["docker"]["image"]
    for name in CLUSTERS:
        assert cluster(name)["rayVersion"] == ray[1]
        (image,) = {pod["containers"][0]["image"] for pod in pods(name)}
        assert image.endswith(f"/raycomp:{version[1]}")
        for text in (dockerfile, (DEPLOY / "rayjob.yaml").read_text()):
            assert f"docker build -f deploy/Dockerfile -t {image} ." in text


def test_the_dockerfile_copies_what_there_is_and_what_a_job_needs():
    lines = re.findall(r"^COPY --chown=ray:users (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    copied = [path for line in lines for path in line.split()]
    assert {"pyproject.toml", "constraints.txt", "raycomp", "jobs", "search_spaces"} <= set(copied)
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_command_is_one_that_the_job_takes(name):
    """As the entrypoint, or in the comment that says how to submit it."""
    text = (DEPLOY / name).read_text()
    (line,) = re.findall(r"^(?:#  |  entrypoint:) +(python jobs/.+)$", text, re.MULTILINE)
    python, script, *arguments = shlex.split(line)
    app = typer.Typer()
    app.command()(runpy.run_path(str(ROOT / script))["main"])
    given = typer.main.get_command(app).make_context(script, arguments).params
    assert python == "python"
    assert Path(given["results"]).is_relative_to("/mnt/raycomp")
    assert given["workers"] == cluster(name)["workerGroupSpecs"][0]["maxReplicas"]


def test_a_lost_job_goes_on_and_the_cluster_ends_with_it():
    spec = load("rayjob.yaml")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("name", CLUSTERS)
@pytest.mark.parametrize(("trials", "gpus", "launched"), [(0, 1, 0), (3, 1, 3), (30, 1, 8), (6, 0, 2)])
def test_gpu_machines_come_with_demand(name, trials, gpus, launched):
    """Ray's scheduler on this cluster: how many machines it launches for so many trials."""
    config = AutoscalingConfig(
        _derive_autoscaling_config_from_ray_cr(
            {"metadata": {"name": "raycomp", "namespace": "default"}, "spec": cluster(name)}
        ),
        skip_content_hash=True,
    )
    trial = ResourceRequestUtil.make({"CPU": 1, "GPU": 1} if gpus else {"CPU": 1})
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_worker_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count([trial] * trials),
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == ({"gpu": launched} if launched else {})
    assert config.get_node_type_configs()["headgroup"].resources["CPU"] == 0
    assert config.get_node_type_configs()["gpu"].min_worker_nodes == 0
    assert config.get_idle_timeout_s() == 300


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_is_reached_in_the_cluster_alone_and_with_a_token(name):
    spec = cluster(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "dashboard-host" not in spec["headGroupSpec"]["rayStartParams"]
    text = (DEPLOY / name).read_text()
    assert not re.search(r"enableIngress|hostNetwork|hostPort|NodePort|LoadBalancer|0\.0\.0\.0", text)
    assert "kubectl port-forward" in text
