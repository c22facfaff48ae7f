# SPDX-License-Identifier: Apache-2.0
"""Jobs and commands as a user runs them, and the folder that they run in."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from raycomp.models import checkpoints
from tests.conftest import TINY, seeded_model

ROOT = Path(__file__).resolve().parents[2]
SHAPE = TINY.model_copy(update={"image": (128, 128), "classes": 11, "prefix": 1})
RAYCOMP = str(Path(sys.executable).with_name("raycomp"))


def make_place(folder: Path) -> Path:
    """Fill a folder with a checkpoint, a search space and a cache."""
    checkpoints.save(seeded_model(SHAPE), folder / "model.safetensors")
    small = {"clean": 4, "corrupted": 1}
    space = {
        "name": "tiny",
        "model": {"checkpoint": str(folder / "model.safetensors"), "shape": SHAPE.model_dump(mode="json")},
        "data": {"dataset": "streetscenes"},
        "evaluation": {"search": small, "full": {"clean": 6, "corrupted": 1}},
        "space": {"mlp": {"low": 64, "step": 16}},
        "search": {"trials": 14, "budget": "80%", "baselines": ["70%", "50%"]},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    return folder


def command(place: Path, *extra: str) -> list[str]:
    options = ["--space", str(place / "space.yaml"), "--results", str(place / "results"), *extra]
    return [sys.executable, str(ROOT / "jobs" / "pareto_search.py"), *options]


def environment(place: Path) -> dict[str, str]:
    own = {"RAYCOMP_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "RAY_ADDRESS": "local"}  # never the head of another test


def execute(
    place: Path, *arguments: str, cwd: Path | None = None, seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command with a place's cache, there or elsewhere."""
    return subprocess.run(
        arguments,
        env=environment(place),
        cwd=cwd or place,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def run(place: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return execute(place, *command(place, *extra))


def raycomp(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; its output as text, bytes that are none escaped."""
    return subprocess.run(
        [RAYCOMP, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
