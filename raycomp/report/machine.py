# SPDX-License-Identifier: Apache-2.0
"""What a sweep finds on this machine: versions, devices, memory, disk, Ray, MLflow, the model hub, and caches."""

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
import torch

from raycomp.cluster import address
from raycomp.data.evalset import cache_folder
from raycomp.errors import UserError, without_password
from raycomp.results.tracking import tracking_uri
from raycomp.storage import located

_NEEDED = ("raycomp", "torch", "ray", "optuna", "mlflow", "pyarrow")
_EXTRAS = ("onnx", "onnxruntime", "timm", "transformers")
_SECONDS = 3.0  # for a connection
_GB = 1e9
_LEAST = {"memory": 4.0, "disk": 5.0, "shared memory": 1.0}
"""GB below which a finding is noted."""


_KINDS = {
    "evalset": "evaluation images, clean and corrupted",
    "saliency": "saliency scores",
}
"""What caches hold, by the start of their names."""


@dataclass(frozen=True)
class Finding:
    """One thing about this machine."""

    what: str
    found: str
    state: Literal["ok", "note", "problem"] = "ok"
    """problem: a sweep would fail; note: it may matter."""
    advice: str = ""


def findings(results: str, tracking: str | None) -> list[Finding]:
    """Look at everything a sweep with these results and this tracking server would use."""
    return [
        *_versions(),
        *_devices(),
        *_memory(),
        *_disk(results),
        _ray(),
        _mlflow(tracking, results),
        _hub(),
        _cache(),
    ]


def _versions() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("versions", ", ".join(f"{name} {version(name)}" for name in _NEEDED))
    present, missing = [], []
    for name in _EXTRAS:
        try:
            present.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    advice = f"without {', '.join(missing)}: see the extras in docs/start.md" if missing else ""
    yield Finding("extras", ", ".join(present) or "none", "note" if missing else "ok", advice)


def _devices() -> Iterator[Finding]:
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    yield Finding("CPU", f"{cores} cores, torch uses {threads} threads in this process")
    if not torch.cuda.is_available():
        built = "torch is built without CUDA" if torch.version.cuda is None else "torch sees none"
        seen = Path("/dev/nvidia0").exists()
        advice = "install torch for CUDA (docs/start.md)" if seen and torch.version.cuda is None else ""
        yield Finding("GPU", f"none: {built}", "problem" if seen else "ok", advice)
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        yield Finding("GPU", f"{torch.cuda.get_device_name(index)}, {free / _GB:.0f} of {total / _GB:.0f} GB free")


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield _space("memory", "", memory.available, memory.total, "fewer --workers need less")
    if (shared := Path("/dev/shm")).is_dir():  # noqa: S108  where Ray keeps objects
        usage = shutil.disk_usage(shared)
        yield _space("shared memory", f" in {shared}", usage.free, usage.total, "docker run --shm-size=4g gives more")


def _disk(results: str) -> Iterator[Finding]:
    place = located(results)
    if not isinstance(place, Path):
        yield Finding("results", str(place))
        return
    existing = next(folder for folder in (place.resolve(), *place.resolve().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        yield Finding("results", f"{place}: not writable", "problem", "choose another --results")
        return
    usage = shutil.disk_usage(existing)
    yield _space("disk", f" in {place}", usage.free, usage.total, "raycomp clean empties the caches")


def _space(what: str, where: str, free: float, total: float, advice: str) -> Finding:
    few = free / _GB < _LEAST[what]
    text = f"{free / _GB:,.0f} of {total / _GB:,.0f} GB free{where}"
    return Finding(what, text, "note" if few else "ok", advice if few else "")


def _ray() -> Finding:
    try:
        joined = address.joined()
        if joined is None:
            return Finding("Ray", "a job starts its own on this machine")
        joined.check()
    except UserError as error:
        return Finding("Ray", str(error), "problem")
    return Finding("Ray", f"a job joins {joined.text}, from {joined.origin}")


def _mlflow(tracking: str | None, results: str) -> Finding:
    uri = tracking_uri(tracking, results)
    origin = "--tracking" if tracking else "MLFLOW_TRACKING_URI" if "MLFLOW_TRACKING_URI" in os.environ else "default"
    text = f"{without_password(uri)} ({origin})"
    if uri.startswith(("http:", "https:")) and not _answers(uri):
        advice = "a sweep runs without it; raycomp track --backfill adds its rows later"
        return Finding("MLflow", f"{text}: no answer", "note", advice)
    return Finding("MLflow", text)


def _hub() -> Finding:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Finding("model hub", "offline, by HF_HUB_OFFLINE")
    if _answers(endpoint):
        return Finding("model hub", f"{endpoint} answers")
    advice = "needed only for backbones and imports from the hub; --backbone FILE does without"
    return Finding("model hub", f"{endpoint}: no answer", "note", advice)


def _answers(uri: str) -> bool:
    """Return whether anything accepts a connection there."""
    parts = urlsplit(uri)
    with suppress(OSError, ValueError):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), _SECONDS):
            return True
    return False


def _cache() -> Finding:
    folder = cache_folder()
    total = sum(size for _, size in caches(folder))
    return Finding("caches", f"{total / 1e6:,.0f} MB in {folder}")


def caches(folder: Path) -> list[tuple[str, int]]:
    """Return kind and size, in bytes, of what lies in the cache folder, the largest first."""
    sizes: dict[str, int] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        kind = _KINDS.get(path.name.partition("-")[0], "other")
        sizes[kind] = sizes.get(kind, 0) + sum(file.stat().st_size for file in files)
    return sorted(sizes.items(), key=lambda item: -item[1])


def empty(folder: Path) -> None:
    """Remove everything in the cache folder."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
