# SPDX-License-Identifier: Apache-2.0
"""`raycomp rehearse`: every job runs, a job that fails is named with what needed it."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from raycomp.cli import app
from raycomp.errors import UserError
from raycomp.rehearsal import watched

TINY = {
    "name": "tiny",
    "model": {
        "checkpoint": "tiny.safetensors",
        "shape": {"width": 32, "heads": 2, "depth": 2, "patch": 8, "image": [64, 64], "classes": 11},
    },
    "data": {"dataset": "streetscenes"},
    "evaluation": {"batch": 16},
    "space": {"embed": {"low": 16}, "mlp": {"low": 32, "step": 16}},
    "search": {"budget": "80%", "baselines": ["80%"]},
    "train": {"steps": 10, "batch": 4, "images": 32},
    "policy": {"kind": "small", "checkpoint": "policy.safetensors", "train": {"steps": 4, "batch": 4}},
    "nvit": {"embed": 8, "heads": 1, "qk": 4, "v": 4, "mlp": 8, "tolerance": 0.9},
    "benchmark": {"methods": ["tome", "cts"]},
}


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def rehearsed(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["rehearse", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.slow
def test_jobs_run_and_the_whole_path_is_estimated(tiny, tmp_path):
    code, text = rehearsed(tiny, "--out", tmp_path / "kept", "--jobs", "policy,elastic,refine,export,prune")
    assert code == 0, text
    assert text.count("done") == 7
    assert text.count("unknown") == 1  # the search, whose plan was not asked for
    assert (tmp_path / "kept" / "pruned.safetensors").is_file()


def test_what_needs_a_failed_job_is_left_out(tiny, tmp_path, monkeypatch):
    def watch(command, environment, log):
        failed = "train" in command and "--elastic" not in command and "--policy" not in command
        return watched.Watched(code=2, problem="no such folder") if failed else watched.Watched()

    monkeypatch.setattr("raycomp.commands.rehearse.watch", watch)
    code, text = rehearsed(tiny)
    assert code == 1
    assert "failed after 0 s: no such folder" in text
    assert text.count("left out: it needs train") == 5
    assert text.count("left out: it needs search") == 2
    assert text.splitlines()[-1] == "failed: train"


def test_json_holds_both_tables(tiny, monkeypatch):
    def watch(command, environment, log):
        return watched.Watched(seconds=3.0, memory=2**31, steps=[1.0, 2.5])

    monkeypatch.setattr("raycomp.commands.rehearse.watch", watch)
    result = CliRunner().invoke(app, ["rehearse", str(tiny), "--json", "--jobs", "elastic"])
    printed = json.loads(result.stdout)
    row = {"seconds": 3.0, "step_seconds": 1.5, "gib": 2.0, "gpu_gib": 0.0, "result": "done"}
    assert printed["jobs"] == [{"job": "train", **row}, {"job": "elastic", **row}]
    hours = {stage["name"]: stage["hours"] for stage in printed["stages"]}
    assert hours["train"] == 10 * 1.5 / 3600
    assert hours["refine"] is None


def test_chosen_jobs_bring_those_they_need(tiny, monkeypatch):
    seen = []

    def watch(command, environment, log):
        seen.append(log.stem)
        return watched.Watched()

    monkeypatch.setattr("raycomp.commands.rehearse.watch", watch)
    assert rehearsed(tiny, "--jobs", "prune")[0] == 0
    assert seen == ["train", "prune"]
    with pytest.raises(UserError, match="--jobs serch: did you mean 'search'"):
        rehearsed(tiny, "--jobs", "serch")


def test_a_folder_with_files_is_not_written_into(tiny, tmp_path):
    with pytest.raises(UserError, match="expected a new or an empty folder"):
        rehearsed(tiny, "--out", tmp_path)
