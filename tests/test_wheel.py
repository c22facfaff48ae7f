# SPDX-License-Identifier: Apache-2.0
"""The wheel in an environment of its own, which has no checkout: all packages but raycomp are those of this one."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from raycomp.results.query import completed
from raycomp.results.store import Store
from tests.helpers.jobs import ROOT, make_place

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model and a search space, outside of the checkout."""
    return make_place(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment with the built wheel."""
    folder = tmp_path_factory.mktemp("environment")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = folder.glob("raycomp-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True)
    packages = folder / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not read
    return folder / "venv"


def run(environment: Path, place: Path, program: str, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    own = {"RAYCOMP_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"}
    command = [str(environment / "bin" / program), *arguments]
    done = subprocess.run(command, cwd=place, env=kept | own, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_is_that_of_the_wheel(environment, place):
    found = run(environment, place, "python", "-c", "import raycomp; print(raycomp.__file__)")
    assert Path(found.strip()).is_relative_to(environment)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(environment, place, "raycomp", "--version") == f"raycomp {version}\n"


def test_every_job_is_a_command(environment, place):
    told = run(environment, place, "raycomp", "--help")
    for name in ("search", "train", "refine", "benchmark", "prune"):
        assert f" {name} " in told
        assert "Usage" in run(environment, place, "raycomp", name, "--help")


def test_shipped_search_spaces_are_found_by_name(environment, place):
    for path in (ROOT / "search_spaces").glob("*.yaml"):
        told = json.loads(run(environment, place, "raycomp", "profile", path.stem, "--json"))
        assert told["space"] == path.stem


def test_the_programs_of_bundles_are_there(environment, place):
    listed = "*sorted(p.name for p in (files('raycomp.deploy') / 'template').iterdir() if p.is_file())"
    found = run(environment, place, "python", "-c", f"from importlib.resources import files; print({listed})")
    assert found.split() == ["resizing.py", "run.py"]


def test_a_search_and_what_reads_it(environment, place):
    done = run(environment, place, "raycomp", "search", "--space", "space.yaml", "--trials", "3")
    assert "Pareto front" in done
    assert len(completed(Store(place / "results" / "tiny").rows(), "search")) == 1 + 3
    assert json.loads(run(environment, place, "raycomp", "front", "tiny", "--json"))["front"]
