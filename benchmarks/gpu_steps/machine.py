# SPDX-License-Identifier: Apache-2.0
"""Versions, imports, what the card can do at most, and whether Ray sees it."""

import importlib
import json
import pkgutil
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

import raycomp
from gpu_steps.notes import ROOT, Notes, Setting
from raycomp.evaluate.latency import median_seconds

_PACKAGES = ("torch", "triton", "timm", "ray", "optuna", "botorch", "mlflow", "pyarrow", "onnxruntime", "numpy")


def run(setting: Setting, notes: Notes) -> None:
    notes.put(python=platform.python_version(), packages={name: _version(name) for name in _PACKAGES})
    if setting.name == "cuda":
        card = torch.cuda.get_device_properties(0)
        asked = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        notes.put(
            card=card.name,
            memory_gib=round(card.total_memory / 2**30, 1),
            l2_mib=card.L2_cache_size / 2**20,
            multiprocessors=card.multi_processor_count,
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            driver=subprocess.run(asked, capture_output=True, text=True).stdout.strip().partition(",")[0],
        )
    notes.put(broken_imports=_broken())
    notes.put(**_ceilings(setting))
    notes.put(**_ray())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _broken() -> dict[str, str]:
    """Modules of ours that cannot be imported, and why."""
    broken = {}
    for module in pkgutil.walk_packages(raycomp.__path__, "raycomp."):
        try:
            importlib.import_module(module.name)
        except Exception as error:
            broken[module.name] = f"{type(error).__name__}: {error}"
    return broken


def _ceilings(setting: Setting) -> dict[str, float]:
    """Bytes a second of a copy, counting read and written, and operations a second of a matrix product."""
    side = 256 if setting.small else 8192
    a, b = (torch.randn(side, side, device=setting.device, dtype=setting.dtype) for _ in range(2))
    source = torch.randn(2**16 if setting.small else 2**30, device=setting.device)
    target = torch.empty_like(source)
    runs: dict[str, Callable[[], Any]] = {"copy": lambda: target.copy_(source), "product": lambda: a @ b}
    times = median_seconds(runs, setting.device, 10, 3)
    return {
        "copy_tb_per_s": 2 * source.nbytes / times["copy"] / 1e12,
        "product_tflops": 2 * side**3 / times["product"] / 1e12,
    }


def _ray() -> dict[str, Any]:
    """What Ray sees, asked in a process of its own: a Ray that cannot start waits for half a minute."""
    lines = ["import json, ray", "from raycomp.cluster import connection", "connection.connect()"]
    lines.append("print(json.dumps(ray.cluster_resources()))")
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    if done.returncode:
        return {"ray": done.stderr[-500:]}
    found = json.loads(done.stdout.splitlines()[-1])
    return {"ray_gpus": found.get("GPU", 0.0), "ray_cpus": found.get("CPU", 0.0)}
