# SPDX-License-Identifier: Apache-2.0
"""The benchmark job as a user runs it: from nothing to the page, again, and with bad options."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from raycomp import config as configs
from raycomp.commands.benchmark import configured
from raycomp.flops import gflops
from raycomp.models import checkpoints
from raycomp.models.policy import Policy
from raycomp.recipe import Recipe, dense
from raycomp.results.query import completed
from raycomp.results.store import Store
from raycomp.settings.training import RecoveryConfig
from tests.conftest import TINY, seeded_model
from tests.helpers.jobs import environment, execute

ROOT = Path(__file__).resolve().parents[2]
SHAPE = TINY.model_copy(update={"width": 64, "depth": 4, "image": (64, 64), "classes": 11, "prefix": 1})


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with checkpoints, a search space and a cache."""
    folder = tmp_path_factory.mktemp("benchmark")
    checkpoints.save(seeded_model(SHAPE), folder / "model.safetensors")
    torch.manual_seed(0)
    checkpoints.save_policy(Policy("small", 8), folder / "policy.safetensors", {})
    space = {
        "name": "tiny",
        "model": {"checkpoint": str(folder / "model.safetensors"), "shape": SHAPE.model_dump(mode="json")},
        "data": {"dataset": "streetscenes"},
        "evaluation": {"search": {"clean": 2, "corrupted": 1}, "full": {"clean": 4, "corrupted": 1}, "batch": 8},
        "train": {"steps": 10, "batch": 2, "optimizer": "adamw", "augment": {"scale": [1, 1]}},
        "policy": {
            "kind": "small",
            "checkpoint": str(folder / "policy.safetensors"),
            "train": {"images": 8, "eval_images": 4, "batch": 2, "augment": {"scale": [1, 1]}},
        },
        "nvit": {"embed": 8, "heads": 1, "qk": 2, "v": 2, "mlp": 8, "rounds": 2, "images": 4},
        "benchmark": {"speedups": [1.4]},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    return folder


def command(place: Path, job: str, *extra: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--space", str(place / "space.yaml"), *extra]


def run(place: Path, *extra: str, job: str = "benchmark") -> subprocess.CompletedProcess[str]:
    return execute(place, *command(place, job, *extra))


def interrupted_after(place: Path, line: str, *extra: str) -> int:
    """Exit code of the job after Ctrl-C at the first line of output that starts so."""
    process = subprocess.Popen(
        command(place, "benchmark", *extra),
        env=environment(place),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith(line):
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=120)[0]
    assert "run the same command to resume" in rest
    return process.returncode


@pytest.mark.slow
def test_from_nothing_to_the_page_and_on_with_more_seeds(place):
    assert interrupted_after(place, "run 2/6", "--recovery", "2", "--seeds", "0") == 130
    folder = place / "results" / "tiny-benchmark"
    before = {row.label: row.started for row in completed(Store(folder).rows(), "benchmark")}
    assert 2 <= len(before) < 6

    first = run(place, "--recovery", "2", "--seeds", "0")
    assert first.returncode == 0, first.stdout + first.stderr
    rows = completed(Store(folder).rows(), "benchmark")
    assert {row.label: row.started for row in rows}.items() >= before.items()
    assert {row.origin for row in rows} == {"dense", "algm", "cts", "tome", "nvit", "nvit+tome"}
    full = next(row.gflops for row in rows if row.origin == "dense")
    for row in rows:
        if row.origin != "dense":
            assert row.gflops == pytest.approx(full / 1.4, rel=0.04)
    assert "| 1.4x | ALGM | T = " in (folder / "benchmark.md").read_text()
    assert list((folder / "settings").glob("*.json")), "results of earlier versions keep operating points there"
    assert all((folder / f"fig{n}.png").is_file() for n in (2, 3, 4))

    again = run(place, "--recovery", "2", "--seeds", "0,1,2", "--methods", "tome,nvit")
    assert again.returncode == 0, again.stdout + again.stderr
    after = completed(Store(folder).rows(), "benchmark")
    assert len(after) == len(rows) + 2 * 3
    kept = {(r.label, r.seed): r.started for r in after}
    assert all(kept[(r.label, r.seed)] == r.started for r in rows)
    assert " ± " in (folder / "benchmark.md").read_text()

    other = run(place, "--recovery", "3")
    assert other.returncode == 2
    assert "benchmark.recovery.steps 2, now 3" in other.stderr


@pytest.mark.slow
def test_a_policy_is_trained_and_used(place):
    done = run(place, "--policy", "--out", str(place / "made.safetensors"), "--steps", "3", job="train")
    assert done.returncode == 0, done.stdout + done.stderr
    card = (place / "made.md").read_text()
    assert "Policy network of CTS (small, 16-pixel superpatches)" in card
    assert checkpoints.load_policy(place / "made.safetensors", SHAPE).kind == "small"


def test_a_space_whose_trials_are_fine_tuned_is_compared_from_the_dense_model(place):
    space = yaml.safe_load((place / "space.yaml").read_text()) | {"recovery": {"mode": "finetune", "steps": 5}}
    (place / "tuned.yaml").write_text(yaml.safe_dump(space))
    assert configured(configs.load(place / "tuned.yaml")).recovery == RecoveryConfig()


@pytest.mark.slow
def test_nvit_prunes_to_a_target_and_its_recipe_is_explained(place):
    out = ("--out", str(place / "pruned.safetensors"))
    done = run(place, "--gflops", "60%", *out, job="prune")
    assert done.returncode == 0, done.stdout + done.stderr
    model = checkpoints.load(place / "pruned.safetensors")
    share = gflops(SHAPE, model.recipe) / gflops(SHAPE, dense(SHAPE))
    assert 0.6 * 0.99 <= share <= 0.6
    assert Recipe.model_validate(yaml.safe_load((place / "pruned.yaml").read_text())) == model.recipe
    missed = run(place, "--gflops", "1%", *out, job="prune")
    assert missed.returncode == 2
    assert "NViT cannot reach 1% of dense: the minimum is" in missed.stderr
    neither = run(place, *out, job="prune")
    assert neither.stderr == "error: give either --gflops or --latency, for example --gflops 60%\n"


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--speedups", "0.5"), "field 'benchmark.speedups.0': input should be greater than 1"),
        (("--methods", "tome,tomme"), "field 'benchmark.methods.1': input should be 'algm', 'cts', 'tome'"),
        (("--seeds", "x"), "field 'benchmark.seeds.0'"),
        (("--sweep", "nowhere"), "no sweep in nowhere"),
    ],
)
def test_bad_options_are_one_line(place, options, words):
    done = run(place, *options, "--name", "bad")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place / "results" / "bad").exists()
