# SPDX-License-Identifier: Apache-2.0
"""The main job as a user runs it: a whole sweep, interrupted and gone on with, and bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from raycomp.evaluate.latency_table import LatencyTable
from raycomp.models import checkpoints
from raycomp.recipe import dense
from raycomp.results.query import completed, final_front
from raycomp.results.store import Store
from tests.conftest import seeded_model
from tests.helpers.jobs import SHAPE, command, environment, execute, run


@pytest.mark.slow
def test_a_limit_of_time_in_place_of_gflops(place):
    options = ("--results", "other", "--name", "timed", "--cost-metric", "latency", "--budget", "100%", "--trials", "3")
    done = run(place, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = place / "other" / "timed"
    rows = Store(folder).rows()
    search = [row for row in completed(rows, "search") if row.origin != "reference"]
    assert len(search) <= 3  # on a busy machine little may be faster than dense, and the space ends sooner
    assert all(row.predicted_share <= 1 for row in search)
    assert {row.sweep for row in rows} == {"timed"}
    reference = next(row for row in rows if row.origin == "reference")
    assert reference.predicted_ms == LatencyTable.load(folder / "latency.json").latency_ms(dense(SHAPE))
    assert "baselines at equal time" in done.stdout
    assert "of dense" in done.stdout
    table = (folder / "latency.json").read_bytes()
    again = run(place, *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(search)} of 3 trials done, resuming" in again.stdout
    assert (folder / "latency.json").read_bytes() == table
    other = run(place, "--results", "other", "--name", "timed", "--budget", "100%", "--trials", "3")
    assert (other.returncode, other.stdout) == (2, "")
    assert "its sweep has search.cost_metric 'latency', now 'gflops'" in other.stderr
    mistyped = run(place, "--name", "new", "--cost-metric", "time")
    assert mistyped.returncode == 2
    assert "'search.cost_metric'" in mistyped.stderr


@pytest.fixture(scope="module")
def swept(place) -> subprocess.CompletedProcess[str]:
    """The sweep of the search space as it is, run to its end."""
    done = run(place)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_a_sweep_from_start_to_report(place, swept):
    rows = Store(place / "results" / "tiny").rows()
    search = [row for row in completed(rows, "search") if row.origin != "reference"]
    assert len(search) == 14
    assert all(row.gflops_share <= 0.8 for row in search)
    assert completed(rows, "full")
    assert "Pareto front" in swept.stdout
    assert "trial 14/14 | measured 14" in swept.stdout
    assert (place / "results" / "tiny" / "front.png").is_file()
    assert "<title>raycomp: tiny</title>" in (place / "results" / "tiny" / "report.html").read_text()
    assert "mlflow ui --backend-store-uri sqlite:///" in swept.stdout
    client = MlflowClient(f"sqlite:///{place}/results/mlflow.db")
    experiment = client.get_experiment_by_name("raycomp").experiment_id
    children = client.search_runs([experiment], "tags.origin LIKE '%'", max_results=1000)
    assert len(children) == len(rows)
    by_key = {run.data.tags["raycomp.row"]: run for run in children}
    row = search[0]
    logged = by_key[f"search-{row.recipe_id}"].data.metrics
    assert logged["clean_miou"] == pytest.approx(row.clean_miou)
    on_front = [run.data for run in children if run.data.tags["on_front"] == "true"]
    [parent] = client.search_runs([experiment], "tags.family = 'sweep'")
    assert parent.data.metrics["front_size"] == len(on_front)
    whole = next(row.gflops for row in rows if row.origin == "reference")
    best = max(
        run.metrics["clean_miou"] * run.metrics["corrupted_miou"] * (1 - run.metrics["gflops"] / whole)
        for run in on_front
    )
    assert best <= parent.data.metrics["front_hypervolume"] <= 1  # a front holds no less than one of its members


@pytest.mark.slow
def test_ctrl_c_leaves_a_result_and_the_same_command_goes_on(place):
    name = ("--name", "interrupted")
    folder = place / "results" / "interrupted"
    process = subprocess.Popen(
        command(place, *name),
        env=environment(place),
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 200
    while len(list(folder.glob("trials/*.parquet"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "run the same command to resume" in output
    assert "Traceback" not in output
    assert (folder / "front.png").exists()
    assert "trials to run: " in output
    front = final_front(Store(folder).rows(), 0.8)
    assert all(row.recipe_id in output for row in front), "all that is measured counts, the last trial included"
    assert "Pareto front by the search stage, on fewer images" in output
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("trials/*.parquet")}
    assert 4 <= len(before) < 15
    again = run(place, *name)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "trials done, resuming" in again.stdout
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("trials/*.parquet")}
    assert before.items() <= after.items(), "a finished trial was measured again"
    assert sum(name.startswith("search-") for name in after) == 15


BAD = [
    (("--budget", "1%"), r"search.budget 1.0% (", "cannot be met"),
    (("--budget", "half"), "field 'search.budget'", "'half'"),
    (("--trials", "0"), "field 'search.trials'", "not 0"),
    (("--space", "missing.yaml"), "missing.yaml: cannot read the search space", ""),
    (("--results", "/dev/null/x"), "results folder /dev/null/x/bad: not writable", ""),
]


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(("options", "start", "also"), BAD)
def test_bad_options_are_one_line_and_exit_code_2(place, options, start, also):
    before = sorted(place.rglob("*"))
    done = run(place, "--name", "bad", *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert start in done.stderr
    assert also in done.stderr
    assert sorted(place.rglob("*")) == before, "something half-written"


@pytest.mark.slow
def test_a_checkpoint_that_changed_behind_the_same_name_is_noticed(place, swept):
    original = (place / "model.safetensors").read_bytes()
    checkpoints.save(seeded_model(SHAPE, seed=1), place / "model.safetensors")
    done = run(place)
    (place / "model.safetensors").write_bytes(original)
    assert done.returncode == 2
    assert "rows were measured with checkpoint" in done.stderr


def edited(place: Path, change: dict[str, object]) -> Path:
    space = yaml.safe_load((place / "space.yaml").read_text())
    for key, value in change.items():
        section, _, field = key.partition(".")
        space[section] = value if not field else {**space[section], field: value}
    path = place / "edited.yaml"
    path.write_text(yaml.safe_dump(space))
    return path


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"serch": {}}, "unknown field 'serch': did you mean 'search'?"),
        ({"search.budgett": 0.5}, "unknown field 'search.budgett': did you mean 'budget'?"),
        ({"model.checkpoint": "gone.safetensors"}, "model.checkpoint: no file gone.safetensors"),
        ({"data.dataset": "camvid", "data.root": "nowhere"}, "data.root: no folder nowhere"),
        ({"data.dataset": "camvit"}, "field 'data.dataset'"),
    ],
)
def test_bad_search_spaces_are_one_line_and_exit_code_2(place, change, words):
    done = run(place, "--space", str(edited(place, change)), "--name", "bad")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(place.glob("results/bad/trials/*"))


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("text", ["name: [", "- just\n- a list\n", "name: a: b\n"])
def test_malformed_yaml_names_the_place(place, text):
    path = place / "malformed.yaml"
    path.write_text(text)
    done = run(place, "--space", str(path))
    assert done.returncode == 2
    assert "malformed.yaml" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_dry_run_says_what_it_would_take_and_leaves_nothing(place):
    options = ("--name", "dry", "--dry-run")
    done = run(place, *options, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["sweep"], told["trials"], told["baselines"] + told["proposed"], told["budget"]) == ("dry", 14, 14, 0.8)
    assert told["hours"] > 0
    assert "14:" in run(place, *options).stdout
    assert not (place / "results" / "dry").exists()
    refused = run(place, "--name", "dry", "--json")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "--json needs --dry-run" in refused.stderr


@pytest.mark.slow
def test_front_and_explain_read_the_sweep(place, swept):
    def raycomp(*arguments: str) -> str:
        tool = Path(sys.executable).with_name("raycomp")
        return subprocess.run(
            [str(tool), *arguments], cwd=place, env=environment(place), capture_output=True, text=True, check=True
        ).stdout

    front = json.loads(raycomp("front", "tiny", "--json"))["front"]
    assert front[0]["gflops"] <= front[-1]["gflops"]
    assert "Pareto front" in raycomp("front", "tiny")
    chosen = front[0]["recipe_id"]
    explained = json.loads(raycomp("explain", chosen[:8], "--json"))
    assert explained["gflops"] == pytest.approx(front[0]["gflops"])
    assert f"Recipe {chosen}" in raycomp("explain", chosen)
    profile = json.loads(raycomp("profile", "space.yaml", "--budget", "50%", "--json"))
    assert profile["satisfiable"]
    assert profile["at_budget"]["gflops"] <= profile["budget_gflops"]
    rows = len(Store(place / "results" / "tiny").rows())
    tracked = json.loads(raycomp("track", "tiny", "--json"))
    assert (tracked["rows"], tracked["missing"]) == (rows, 0)
    compacted = json.loads(raycomp("compact", "tiny", "--json"))
    assert (compacted["files"], compacted["rows"]) == (rows, rows)
    assert json.loads(raycomp("report", "tiny", "--out", "page.html", "--json")) == {
        "report": "page.html",
        "sweeps": ["tiny"],
    }


@pytest.mark.slow
def test_results_in_a_folder_with_quotes_and_signs_of_uris(place, tmp_path):
    results = tmp_path / "it's #1, 100%? [b]"
    options = ("--results", str(results), "--trials", "3", "--budget", "80%")
    done = run(place, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"report: {results / 'tiny' / 'report.html'}" in done.stdout
    assert " at " + "sqlite" not in done.stdout.replace("--backend-store-uri", "")
    again = run(place, *options)
    assert "3 of 3 trials done, resuming" in again.stdout, again.stdout + again.stderr
    copied = tmp_path / "copied to here"  # as to another machine: the same command goes on
    results.rename(copied)
    longer = run(place, "--results", str(copied), "--trials", "5", "--budget", "80%")
    assert longer.returncode == 0, longer.stdout + longer.stderr
    assert f"{copied / 'tiny'}: 3 of 5 trials done, resuming" in longer.stdout
    tool = str(Path(sys.executable).with_name("raycomp"))
    rows = len(Store(copied / "tiny").rows())
    told = execute(place, tool, "track", "tiny", "--results", str(copied))
    assert f"has {rows} of {rows} rows" in told.stdout, told.stdout + told.stderr
    assert [path.name for path in tmp_path.iterdir()] == [copied.name], "something beside the results"
    assert list(copied.glob("mlartifacts/*/artifacts/front.png"))
