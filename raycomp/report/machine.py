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
from raycomp.errors import UserError, first_line, without_password
from raycomp.results.tracking import tracking_uri
from raycomp.storage import located

_NEEDED = ("raycomp", "torch", "ray", "optuna", "mlflow", "pyarrow")
_EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "jobs": ("aiohttp",), "postgres": ("psycopg",)}
"""Packages by extra of raycomp."""
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
    for extra, names in _EXTRAS.items():
        try:
            yield Finding(f"extra {extra}", ", ".join(f"{name} {version(name)}" for name in names))
        except PackageNotFoundError:
            yield Finding(f"extra {extra}", "not installed", "ok", f"pip install 'raycomp[{extra}]', if you need it")


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
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:  # busy in exclusive mode, or broken
            yield Finding("GPU", f"{index}: {first_line(error)}", "problem", "nvidia-smi shows who uses it")
            continue
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
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Finding("results", f"{place}: not writable, because of {existing}", "problem", "choose another --results")
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
    origin = "--tracking" if tracking else "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "default"
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
    """Return kind and size, in bytes, of the caches in a folder, the largest first; other files do not count."""
    sizes: dict[str, int] = {}
    for path in _ours(folder):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        kind = _KINDS[_start(path)]
        sizes[kind] = sizes.get(kind, 0) + sum(file.stat().st_size for file in files)
    return sorted(sizes.items(), key=lambda item: -item[1])


def empty(folder: Path) -> None:
    """Remove the caches in a folder."""
    for path in _ours(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _ours(folder: Path) -> list[Path]:
    """Return what raycomp wrote, also by a process that was killed meanwhile."""
    return [path for path in folder.iterdir() if _start(path) in _KINDS] if folder.is_dir() else []


def _start(path: Path) -> str:
    return path.name.removeprefix(".").partition("-")[0]
