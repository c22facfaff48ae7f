# SPDX-License-Identifier: Apache-2.0
"""Run an autoscaling Ray cluster on this machine: Ray's autoscaler with fake nodes, each a raylet with one CPU.

`ray.cluster_utils.AutoscalingCluster` of Ray 2.60 raises FileNotFoundError, as the wheel lacks `example.yaml`. It also
starts and ends with `ray stop --force`, which stops every Ray cluster on the machine.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ray
import yaml

from raycomp.errors import UserError

_HEAD = "f" * 51 + "00000"  # the node id the fake provider expects
_SECONDS_TO_START = 120


@contextmanager
def autoscaling_cluster(nodes: int, idle_seconds: float = 12.0) -> Iterator[str]:
    """Start a head without CPUs that adds up to `nodes` nodes on demand and removes idle ones; yield its RAY_ADDRESS.

    Raises:
        UserError: If Ray does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    port, dashboard, agent, client = _free_ports(4)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    (folder / "cluster.yaml").write_text(yaml.safe_dump(_cluster(nodes, idle_seconds, address)))
    options = ["--head", "--block", "--disable-usage-stats", "--num-cpus=0", f"--port={port}"]
    options += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    options += [f"--ray-client-server-port={client}", f"--temp-dir={folder / 'ray'}"]
    options += [f"--autoscaling-config={folder / 'cluster.yaml'}"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(  # noqa: S603  Ray's command line
            [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
            env=os.environ | _ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(head, port, folder / "head.log")
        yield address
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


_ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_NODE_TYPE_NAME": "ray.head.default",
    "RAY_CLOUD_INSTANCE_ID": _HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD,
}


_COMMANDS = (  # required by Ray, though none is run
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


def _cluster(nodes: int, idle_seconds: float, address: str) -> dict[str, object]:
    return {
        "cluster_name": "local",
        "max_workers": nodes,
        "idle_timeout_minutes": idle_seconds / 60,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD,
            "gcs_address": address,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}},
            "worker": {"resources": {"CPU": 1}, "min_workers": 0, "max_workers": nodes, "node_config": {}},
        },
        "head_node_type": "ray.head.default",
        **{name: [] for name in _COMMANDS},
        "file_mounts": {},
        "auth": {},
    }


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in sockets]


def _wait(head: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while head.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0 and "Ray runtime started" in log.read_text():
                return
        time.sleep(0.5)
    raise UserError(f"Ray did not start: {' '.join(log.read_text().split())[-300:]}")


def _end(head: "subprocess.Popen[bytes]") -> None:
    """Stop the head and its nodes, which belong to its process group."""
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(30)
    except subprocess.TimeoutExpired:
        head.kill()
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
