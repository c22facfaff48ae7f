# SPDX-License-Identifier: Apache-2.0
"""The command line as a shell sees it: bad input is one line that says what and where, with exit code 2."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycomp.evaluate.per_image import PerImage
from raycomp.recipe import dense
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from tests.conftest import TINY
from tests.helpers.jobs import raycomp
from tests.helpers.trials import CONFIG, fake_row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a sweep that is empty, one whose settings are broken, and one whose row is something else."""
    folder = tmp_path_factory.mktemp("cli")
    for name in ("empty", "broken", "unknown", "foreign"):
        Store(folder / "results" / name).open(CONFIG)
    (folder / "results/broken/sweep.yaml").write_text("name: [")
    (folder / "results/unknown/sweep.yaml").write_text("serach: {}")
    pq.write_table(pa.table({"a": [1]}), folder / "results/foreign/trials/search-a.parquet")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    return folder


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("level", ["debug", "DEBUG", "warning"])
def test_the_log_has_the_traceback_of_what_ends_as_one_line(folder, level):
    (folder / "dated.yaml").write_text("name: 2001-99-99")
    done = raycomp(folder, "profile", "dated.yaml", RAYCOMP_LOG=level)
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: dated.yaml: not valid YAML: a value cannot be read (month must be in 1..12")
    raised = "ValueError: month must be in 1..12" in "\n".join(before)
    assert raised == ("Traceback (most recent call last):" in before) == (level != "warning")
    assert done.returncode == 2


def test_a_level_that_the_log_does_not_have_is_refused(folder):
    done = raycomp(folder, "status", RAYCOMP_LOG="debgu")
    assert (done.stderr, done.returncode) == ("error: RAYCOMP_LOG is 'debgu': did you mean 'debug'?\n", 2)


@pytest.fixture(scope="module")
def trusted(folder):
    """With a sweep of one recipe whose figures have intervals."""
    hits = np.array([[[5, 5], [10, 10]]] * 3, np.int64)
    images = PerImage(hits[:, 0], hits[:, 1], np.array([-1, 0, 0]), np.array([0, 0, 0]))
    store = Store(folder / "results" / "trusted")
    store.open(CONFIG)
    store.write(
        replace(
            fake_row(TINY, Proposal(1, "search", "proposed", "", dense(TINY).model_copy(update={"embed": 16}))),
            clean_miou=0.5,
            corrupted_miou=0.5,
            per_image=images.packed(),
            rpc=1.0,
        )
    )
    return folder


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("pick empty --max-gflops abc", "'--max-gflops': Input should be a valid number, unable to parse"),
        ("pick empty --max-gflops abc", "not 'abc' (see raycomp pick --help)"),
        ("pick empty --max-memory 5", "--max-memory 5: expected a share of dense such as 5%, or 5 MB"),
        ("profile streetscenes_vit_micro --budget 8", "share of dense such as 8%, or 8 GFLOPs or 8 ms, not '8'"),
        ("search --budget 0.01GFLOPs", "search.budget 1.6% (0.01 GFLOPs) cannot be met: the cheapest recipe"),
        ("search --budget 8ms --cost-metric gflops", "budget 8 ms needs cost_metric latency, not gflops"),
        ("search --engine onnxruntime", "--engine onnxruntime: only a search for time uses it; add --cost-metric"),
        ("search --threads 2 --budget 40%", "--threads 2: only a search for time uses it; add --cost-metric latency"),
        (
            "search --budget 8ms --engine onxruntime",
            "'search.latency_engine': input should be 'torch' or 'onnxruntime'",
        ),
        ("search --budget 8ms --threads 0", "'search.latency_threads': input should be greater than 0"),
        (
            "pick empty --max-gflps 1",
            "No such option: --max-gflps (Possible options: --max-file, --max-gflops, --max-ms)",
        ),
        ("pick empty --max-drop nan", "--max-drop nan: expected a number"),
        ("pick empty --max-share 30", "of the dense cost such as 40%; did you mean 30%?"),
        ("pick", "Missing argument 'sweep'. (see raycomp pick --help)"),
        ("fronts", "No such command 'fronts'. Did you mean 'front'?"),
        (f"front {300 * 'a'}", "sweep name aaaaaaaaaaaaaaaaaaaa...: 300 characters; at most 255"),
        (f"front a --results {300 * 'a'}", "File name too long"),
        (f"report empty --out {300 * 'a'}.html", "File name too long"),
        ("front emtpy", "no sweep in results/emtpy; did you mean 'empty'?"),
        ("front broken", "results/broken/sweep.yaml: not the settings of a sweep"),
        ("front unknown", "results/unknown/sweep.yaml: field 'model' is missing"),
        ("front foreign", "search-a.parquet: not a raycomp row; it has no column 'recipe_id'"),
        ("status broken", "results/broken/sweep.yaml: not the settings of a sweep"),
        ("profile binary.yaml", "binary.yaml: a search space is a YAML file; this is not text"),
        ("profile camvid_vit_tin", "search space 'camvid_vit_tin': neither a file nor a shipped name; did you mean"),
        ("search --space x", "search space 'x': neither a file nor a shipped name; allowed: ade20k_deit_base, camvid"),
        ("search --json", "--json needs --dry-run; raycomp front NAME --json prints the results of a sweep"),
        ("train --out a.safetensors --space camvid_vit_tiny --policy --elastic", "--policy and --elastic: choose one"),
        ("refine --sweep emtpy", "no sweep in results/emtpy; did you mean 'empty'?"),
        ("prune --space camvid_vit_tiny --out a.safetensors", "give either --gflops or --latency, for example"),
        ("benchmark --methods tomme", "field 'benchmark.methods.0': input should be"),
        (f"explain {300 * 'a'} --sweep empty", f"no recipe '{300 * 'a'}'"),
        ("export a --formats ,", "--formats is empty; allowed: safetensors, onnx, pt2"),
        ("export a --bundle --formats pt2", "--bundle needs onnx in --formats, not only pt2"),
        ("export a --precision int9", "--precision int9: did you mean 'int8'?"),
        ("export a --precision int8 --formats pt2", "--precision int8 needs onnx in --formats, not only pt2"),
        ("speed a --threads 0", "'--threads': Input should be greater than or equal to 1, not '0'"),
        ("report empty --out results/empty/sweep.yaml", "--out results/empty/sweep.yaml: expected a file that ends in"),
        ("speed a --plot model.onnx", "--plot model.onnx: expected a file that ends in .png, as in model.png"),
        ("speed binary.yaml", "binary.yaml: neither safetensors nor a torch checkpoint; expected weights in a"),
        ("speed a --batch ,", "--batch is empty; for example 1,16"),
    ],
)
def test_bad_input_is_one_line(folder, arguments, told):
    done = raycomp(folder, *arguments.split())
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr


@pytest.mark.slow
def test_a_sweep_that_cannot_be_read_hides_no_other(folder):
    done = raycomp(folder, "status")
    assert done.returncode == 0
    assert "empty" in done.stdout
    assert "skipped: results/broken/sweep.yaml" in done.stderr


@pytest.mark.slow
def test_help_is_for_those_who_ask_and_for_those_who_say_nothing(folder):
    asked = raycomp(folder, "--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert "pick" in asked.stdout
    silent = raycomp(folder)
    assert silent.returncode == 2
    assert "pick" in silent.stdout
    assert silent.stderr == ""


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("environment", "sign"),
    [
        ({"PYTHONIOENCODING": "ascii"}, "+-"),
        ({"LC_ALL": "C"}, "±"),  # which Python takes for UTF-8
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "+-"),
        ({"PYTHONIOENCODING": "latin-1"}, r"\xb1"),
    ],
)
def test_figures_can_be_read_in_any_encoding(trusted, environment, sign):
    done = raycomp(trusted, "front", "trusted", **environment)
    assert done.returncode == 0, done.stderr
    assert f"{sign}: 95 % interval over draws" in done.stdout
    assert f"50.00 {sign}" in done.stdout


def test_a_name_in_brackets_is_printed_whole(trusted):
    (trusted / "[a] [/b]").mkdir(parents=True)
    done = raycomp(trusted, "report", "trusted", "--out", "[a] [/b]/page.html")
    assert (done.returncode, done.stdout) == (0, "report: [a] [/b]/page.html\n"), done.stderr
