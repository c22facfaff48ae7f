"""What trials run on, said in a line before the first; and whether a cluster can run them at all."""

import json
from collections.abc import Callable
from pathlib import Path

from raycomp.cluster import connection
from raycomp.cluster.address import joined
from raycomp.config import SweepConfig
from raycomp.errors import UserError, logger

_CARD = "accelerator_type:"  # begins a resource of a node, by which Ray tells the kind of its GPUs
_FIELD = "search.gpus_per_trial"


def announce(config: SweepConfig, say: Callable[[str], None], warn: Callable[[str], None], field: str = _FIELD) -> None:
    """Say what trials run on; `connection.connect` comes first.

    Args:
        warn: called in place of `say` where trials wait for a cluster that may grow.
        field: what a person calls the GPUs of a trial.

    Raises:
        UserError: see `check_room`.
    """
    import ray

    if not check_room(config, warn, field):
        return
    gpus, nodes = connection.gpus_per_trial(config), connection.nodes()
    if connection.is_empty():
        one = "" if config.search.workers else ": one trial at a time unless --workers tells"
        say(f"the cluster has no workers yet; how many it may get is unknown{one}")
        return
    asked, room = connection.workers(config), sum(connection.room(node, config) for node in nodes)
    few = "" if asked <= room else f"; now there is no room for {asked} (--workers)"
    count, total = min(asked, room), ray.cluster_resources()
    if gpus:
        cards = sorted(name.removeprefix(_CARD) for name in total if name.startswith(_CARD))
        kinds = f" ({', '.join(cards)})" if cards else ""
        say(f"trials run on {_many(count, 'worker')} of {gpus:g} GPU each{kinds}{few}")
        return
    unused = total.get("GPU", 0.0)
    why = f"{field} is 0, and leaves {unused:g} GPU(s) unused" if unused else f"Ray sees no GPU{_hint()}"
    say(f"trials run on {_many(count, 'CPU worker')}: {why}{few}")


def check_room(config: SweepConfig, warn: Callable[[str], None], field: str = _FIELD) -> bool:
    """Whether some node has what a trial asks for; `warn` is told where none has it, and the cluster may grow.

    Raises:
        UserError: for GPUs that Ray does not take, or that no node of a cluster of fixed size has; for memory so, too.
    """
    gpus, memory = connection.gpus_per_trial(config), config.search.memory_per_trial
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"{field} {gpus:g}: Ray gives a share of one GPU, or whole ones; did you mean {round(gpus)}?")
    most = {name: max((node.get(name, 0.0) for node in connection.nodes()), default=0.0) for name in ("GPU", "memory")}
    if gpus > most["GPU"]:
        there = f"no node has more than {most['GPU']:g}" if most["GPU"] else f"Ray sees no GPU{_hint()}"
        _missing(f"{field} {gpus:g}: {there}", f"{field} {most['GPU']:g}", warn)
        return False
    if memory is not None and memory * 2**30 > most["memory"]:
        gib = most["memory"] / 2**30
        there = f"search.memory_per_trial {memory:g}: no node has more than {gib:.3g} GiB for trials"
        _missing(there, f"{int(10 * gib) / 10:g}", warn)
        return False
    return True


def check_training(workers: int, gpu: bool, warn: Callable[[str], None]) -> None:
    """Check that workers that train together find a GPU, or a CPU, each.

    Raises:
        UserError: for more of them than a cluster of fixed size has.
    """
    import ray

    kind = "GPU" if gpu else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))
    if workers > there:
        _missing(f"refine.workers {workers}: each takes a {kind}, and the cluster has {there}", str(there), warn)


def _missing(problem: str, nearest: str, warn: Callable[[str], None]) -> None:
    if not may_grow():
        raise UserError(f"{problem}; did you mean {nearest}?")
    warn(f"{problem}; waiting until the cluster has grown")


def may_grow() -> bool:
    """Whether nodes may still join by themselves: not in a Ray of this job's own, nor in one that people started.

    Ray's monitor, of its first autoscaler, and the state that the second one reports name every node's type. Without
    an autoscaler each node is a type of its own, called after its id. A cluster that tells neither may grow.
    """
    import ray
    from ray._private import ray_constants
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    if joined() is None:
        return False
    try:
        told = _internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
        if told:
            types = json.loads(told)["autoscaler_report"]["node_type_mapping"] or {}
        else:
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            if status.stats.autoscaler_version in (None, "0"):  # it has not reported yet
                return True
            types = {node.node_id: node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
    except Exception:  # of a Ray whose internals differ: waiting with a warning is right there, too
        logger.debug("asking Ray what its autoscaler does", exc_info=True)
        return True
    return not (types and all(kind == f"node_{node}" for node, kind in types.items()))


def _hint() -> str:
    """What to add where Ray sees no GPU, and this machine has one."""
    import torch

    if torch.cuda.is_available():
        return " (torch sees one here: was Ray started with --num-gpus=0?)"
    if Path("/dev/nvidia0").exists():
        return " (this machine has one, which torch does not see either: nvidia-smi and CUDA_VISIBLE_DEVICES may tell)"
    return ""


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
