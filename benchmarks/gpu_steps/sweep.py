# SPDX-License-Identifier: Apache-2.0
"""A real sweep of the embedded default, four trials sharing the card, and the same on CPU workers."""

import subprocess
import sys
import threading
import time
from typing import Any

import yaml

from gpu_steps.notes import ROOT, SPACE, Notes, Setting
from raycomp.results.store import Store

_PACKED = 4


def run(setting: Setting, notes: Notes) -> None:
    ways: dict[str, list[str]] = {}
    if setting.name == "cuda":
        ways["cuda"] = ["--gpus", str(1 / _PACKED), "--workers", str(_PACKED)]
        ways["cpu"] = ["--gpus", "0", "--workers", "16"]
    else:
        ways["cpu"] = ["--gpus", "0", "--workers", "2"]
    for name, options in ways.items():
        notes.put(**{name: _sweep(setting, name, options)})


def _sweep(setting: Setting, name: str, options: list[str]) -> dict[str, Any]:
    space, results = setting.folder / "space.yaml", setting.folder / "results"
    written = yaml.safe_load(SPACE.read_text())
    if setting.small:
        few = {"clean": 4, "corrupted": 1, "severities": [3]}
        written["evaluation"] = {"search": few, "full": few}
    space.write_text(yaml.safe_dump(written))
    trials = "3" if setting.small else "40"
    job = [sys.executable, "jobs/pareto_search.py", "--space", str(space), "--trials", trials, "--name", name]
    peak = _PeakMemory(setting.name == "cuda")
    began = time.monotonic()
    with peak:
        done = subprocess.run([*job, "--results", str(results), *options], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    rows = [row for row in Store(results / name).rows() if row.stage == "search"]
    times = [(row.started.timestamp(), row.seconds) for row in rows if row.started and row.seconds is not None]
    span = max(sum(time) for time in times) - min(times)[0] if times else float("nan")
    return {
        "exit_code": done.returncode,
        "seconds": time.monotonic() - began,
        "trials": len(rows),
        "failed": [row.error for row in rows if row.status == "failed"],
        "trials_a_minute": 60 * len(rows) / span,
        "seconds_a_trial": sorted(seconds for _, seconds in times)[len(times) // 2] if times else None,
        "device": rows[0].device if rows else "",
        "card_peak_gib": peak.gib,
        "said": [line for line in done.stdout.splitlines() if "trials run" in line or "GPU" in line],
        "last_words": done.stdout[-300:] if done.returncode else "",
    }


class _PeakMemory:
    """The card's memory in use, asked for twice a second while open."""

    def __init__(self, on: bool) -> None:
        self.gib: float | None = None
        self._on, self._over = on, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self._on:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._over.wait(0.5):
            used = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
            if used.isdigit():
                self.gib = max(self.gib or 0.0, int(used) / 1024)
