# SPDX-License-Identifier: Apache-2.0
"""Check that a cluster can run the trials, and report what they run on."""

import json
from collections.abc import Callable
from pathlib import Path

import ray
import torch
from ray._private import ray_constants
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental import internal_kv

from raycomp.cluster import connection
from raycomp.cluster.address import joined
from raycomp.config import SweepConfig
from raycomp.errors import UserError, logger

_GPU_TYPE = "accelerator_type:"  # prefix of the node resource that names its GPU type
_FIELD = "search.gpus_per_trial"


def announce(config: SweepConfig, say: Callable[[str], None], warn: Callable[[str], None], field: str = _FIELD) -> None:
    """Report what trials run on. Call `connection.connect` first.

    Args:
        warn: Called instead of `say` if trials wait for the cluster to grow.
        field: Name of the setting for GPUs per trial in messages.

    Raises:
        UserError: As `check_room`.
    """
    if not check_room(config, warn, field):
        return
    gpus, total = connection.gpus_per_trial(config), ray.cluster_resources()
    if not total.get("CPU"):
        one = "" if config.search.workers else "; running one trial at a time. Set --workers for more"
        say(f"the cluster has no workers yet{one}")
        return
    requested = connection.workers(config)
    room = sum(connection.room(node, config) for node in connection.nodes())
    few = "" if requested <= room else f"; the cluster has no room for {requested} now (--workers)"
    count = min(requested, room)
    if gpus:
        cards = sorted(name.removeprefix(_GPU_TYPE) for name in total if name.startswith(_GPU_TYPE))
        kinds = f" ({', '.join(cards)})" if cards else ""
        say(f"trials run on {_many(count, 'worker')} of {gpus:g} GPU each{kinds}{few}")
        return
    unused = total.get("GPU", 0.0)
    reason = f"{field} is 0, which leaves {unused:g} GPU(s) unused" if unused else f"Ray sees no GPU{_hint()}"
    say(f"trials run on {_many(count, 'CPU worker')}: {reason}{few}")


def check_room(config: SweepConfig, warn: Callable[[str], None], field: str = _FIELD) -> bool:
    """Return whether a node has the resources of a trial; warn if none has and the cluster may grow.

    Raises:
        UserError: If Ray does not support the number of GPUs, or no node of a fixed-size cluster has enough GPUs or
            memory.
    """
    gpus, memory = connection.gpus_per_trial(config), config.search.memory_per_trial
    if gpus and "int8" in config.space.precision:
        raise UserError(f"space.precision int8 is measured on CPUs alone; expected {field} 0, not {gpus:g}")
    if gpus > 1 and gpus != int(gpus):
        raise UserError(
            f"{field} {gpus:g}: Ray assigns a fraction of one GPU or an integer number; did you mean {round(gpus)}?"
        )
    nodes = connection.nodes()
    max_gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    if gpus > max_gpus:
        available = f"no node has more than {max_gpus:g}" if max_gpus else f"Ray sees no GPU{_hint()}"
        _missing(f"{field} {gpus:g}: {available}", f"{field} {max_gpus:g}", warn)
        return False
    gib = max((node.get("memory", 0.0) for node in nodes), default=0.0) / 2**30
    if memory is not None and memory > gib:
        problem = f"search.memory_per_trial {memory:g}: no node has more than {gib:.3g} GiB for trials"
        _missing(problem, f"{int(10 * gib) / 10:g}", warn)
        return False
    return True


def check_training(workers: int, gpu: bool, warn: Callable[[str], None]) -> None:
    """Check that every worker of a joint training gets a GPU or CPU.

    Raises:
        UserError: If a fixed-size cluster has too few.
    """
    kind = "GPU" if gpu else "CPU"
    available = int(ray.cluster_resources().get(kind, 0))
    if workers > available:
        _missing(f"refine.workers {workers}: each needs a {kind}, the cluster has {available}", str(available), warn)


def _missing(problem: str, nearest: str, warn: Callable[[str], None]) -> None:
    if not may_grow():
        raise UserError(f"{problem}; did you mean {nearest}?")
    warn(f"{problem}; waiting for the cluster to grow")


def may_grow() -> bool:
    """Return whether nodes may still join automatically. They cannot in a Ray started by this job or by hand.

    Both versions of Ray's autoscaler report the type of every node. Without an autoscaler, each node has its own
    type, named after its id. A cluster that reports no types may grow.
    """
    if joined() is None:
        return False
    try:
        status_text = internal_kv._internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
        if status_text:
            types = json.loads(status_text)["autoscaler_report"]["node_type_mapping"] or {}
        else:
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            if status.stats.autoscaler_version in (None, "0"):  # not reported yet
                return True
            types = {node.node_id: node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
    except Exception:  # internals of Ray may differ; then wait with a warning
        logger.debug("asking Ray what its autoscaler does", exc_info=True)
        return True
    return not (types and all(kind == f"node_{node}" for node, kind in types.items()))


def _hint() -> str:
    """Return a hint for when Ray sees no GPU but this machine has one."""
    if torch.cuda.is_available():
        return " (torch sees one: was Ray started with --num-gpus=0?)"
    if Path("/dev/nvidia0").exists():
        return " (this machine has one that torch does not see either: check nvidia-smi and CUDA_VISIBLE_DEVICES)"
    return ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
