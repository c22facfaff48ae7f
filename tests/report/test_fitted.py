# SPDX-License-Identifier: Apache-2.0
"""Every table in terminals of 80 to 160 columns: no figure is cut, no column vanishes, a pipe gets the full form."""

import io
import os
import pty
import subprocess
import sys
import termios
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from raycomp.deploy.precision_facts import Precision, PrecisionFigures
from raycomp.deploy.speed import Speed
from raycomp.flops import profile
from raycomp.recipe import dense
from raycomp.report import tables
from raycomp.report.confidence import Confidence
from raycomp.report.fitted import Column, FittedTable
from raycomp.report.precision_table import precision_table
from raycomp.report.status import Status
from raycomp.results.query import at_budgets, origins, uniform_baselines
from raycomp.results.row import Row
from raycomp.shape import deit_base_distilled
from tests.helpers.sweep_views import stored, sweep_view

WIDTHS = (80, 100, 120, 160)
SWEEP = sweep_view("streetscenes_vit_micro_at_half_of_the_dense_gflops")
SURE = [replace(c, confidence=Confidence((0.3, 0.5), (0.2, 0.44), c.row.recipe_id)) for c in SWEEP.comparisons]
OF, CLASSES = origins(SWEEP.rows), {f"traffic sign {i}": i % 2 for i in range(12)}
SHAPE = deit_base_distilled((512, 512), 150)
WHOLE = profile(SHAPE, dense(SHAPE), (512, 512))
STATUS = Status(
    SWEEP.name, "interrupted", 11200, 11200, 30, 25, 12, datetime(2026, 11, 1, tzinfo=UTC), "process 1 on a", 2, 5000.0
)
SPEED = Speed("249f3edd1668", "onnxruntime", 4096, 1234.5, 12345.67, 12345.6, saved=12.34, gained=0.91)
FIGURES = PrecisionFigures(
    clean_miou=0.6789, corrupted_miou=0.4567, clean_change=-12.34, corrupted_change=-1.23, images=11400,
    latency_ms={1: 1234.56, 16: 12345.67}, speedup={1: 1.23, 16: 12.34},
    setting="Intel(R) Xeon(R) Platinum 8480C, 1 thread, onnxruntime 1.32.0",
)  # fmt: skip
SIZES: dict[Precision, int] = {"fp32": 123_456_789, "int8": 34_567_890}


def timed(row: Row) -> Row:
    return replace(row, predicted_ms=123.456, predicted_share=0.6)


TABLES = {
    "front": lambda: tables.front_table(SWEEP.comparisons, False, OF),
    "front with intervals": lambda: tables.front_table(SURE, False, OF),
    "front in time": lambda: tables.front_table([replace(c, row=timed(c.row)) for c in SURE], True, OF),
    "budgets": lambda: tables.budget_table(at_budgets(SWEEP.rows, (0.7, 0.5), 0.7), OF),
    "picked": lambda: tables.picked_table(SWEEP.front, SWEEP.dense, {}, "Cheapest", {}),
    "picked by class": lambda: tables.picked_table(
        SWEEP.front, SWEEP.dense, CLASSES, "Cheapest", {c.row.recipe_id: c.confidence for c in SURE}
    ),
    "sweeps": lambda: tables.sweeps_table([SWEEP, sweep_view("other")]),
    "status": lambda: tables.status_table(
        [STATUS, replace(STATUS, sweep="s" * 90, writer="process 12 on " + "n" * 60)]
    ),
    "profile": lambda: tables.profile_table([(name, WHOLE) for name in ("dense", "at budget", "smallest")]),
    "settings": lambda: tables.settings_table({"dense": WHOLE, "ToMe r = 140, all heads' keys": WHOLE}),
    "recipe": lambda: tables.recipe_table(dense(SHAPE), WHOLE, WHOLE),
    "refined": lambda: tables.refined_table(
        SWEEP.front, [replace(r, seed=s, clean_miou=0.3 + 0.4 * s) for r in SWEEP.front for s in (0, 1)], SWEEP.dense
    ),
    "precisions": lambda: precision_table("249f3edd1668", dict.fromkeys(SIZES, FIGURES), SIZES),
    "speed": lambda: tables.speed_table([SPEED, replace(SPEED, model="m" * 50, saved=1.0)]),
}


def shown(table: FittedTable, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(table)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, *WIDTHS])
@pytest.mark.parametrize("name", TABLES)
def test_no_figure_is_cut_in_any_terminal(name, width):
    table = TABLES[name]()
    lines = shown(table, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert not any(line in text for line in ("┳┳", "┃┃", "││"))
    optional = {index for index, column in enumerate(table.columns) if column.optional}
    figures = {index for index, column in enumerate(table.columns) if not column.text}
    there = [cell.strip() for line in lines for cell in line.replace("┃", "│").split("│")]
    for cells, _ in table.rows:
        for index in figures - optional:
            assert cells[index].strip() in there, (table.columns[index].name, cells[index])
        for index in set(range(len(cells))) - figures - optional:
            assert cells[index] in there or len(cells[index]) > 12, "ids are whole; longer texts may be folded"
    wanted = " ".join(column.name for column in table.columns if not column.optional).split()
    assert not set(wanted) - set(text.replace("┃", " ").split()) or width == 40, "every column is named"


@pytest.mark.parametrize("name", TABLES)
def test_in_a_pipe_all_columns_stand_side_by_side(name):
    table = TABLES[name]()
    with (out := tables.console()).capture() as captured:  # pytest's output is no terminal
        out.print(table)
    lines = captured.get().splitlines()
    names = [column.name for column in table.columns if "\n" not in column.name]
    assert any(all(one in line for one in names) for line in lines)
    assert sum(line.startswith("│") for line in lines) == len(table.rows)


def test_the_front_keeps_cost_and_accuracy_of_the_data():
    for width in WIDTHS:
        text = "\n".join(shown(TABLES["front with intervals"](), width))
        for row in SWEEP.front:
            for figure in (
                f"{row.gflops:.4f}",
                f"{row.gflops_share:.1%}",
                f"{100 * row.clean_miou:.2f} ±10.0",
                f"{100 * row.corrupted_miou:.2f} ±12.0",
                row.recipe_id,
                row.label or row.family,
            ):
                assert figure in text, (width, figure)
        assert all(f"vs {kind.removeprefix('uniform ')}" in text for kind in ("dense", *uniform_baselines()))


def test_columns_are_stacked_no_more_than_the_width_asks_for():
    columns = [Column("a"), Column("b", under="a"), Column("c", text=True), Column("d", optional=True)]
    table = FittedTable("", columns)
    table.add_row("1" * 10, "2" * 10, "word " * 10, "4" * 10)
    side_by_side, there = "│ 1111111111 │ 2222222222 │ word", {}
    for width in (100, 80, 60, 45):
        lines = shown(table, width)
        there[width] = [any(part in one for one in lines) for part in (side_by_side, "4444444444")]
    assert len(shown(table, 100)) == 5
    assert there == {
        100: [True, True],
        80: [True, True],  # the words are folded
        60: [True, False],  # the optional column goes
        45: [False, False],
    }
    assert any(one.startswith("│ 2222222222 │") for one in shown(table, 45)), "one figure stands under another"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("results"), SWEEP, sweep_view("other", seed=1))


def in_terminal(columns: int, *arguments: str) -> str:
    """What a command writes to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    command = [sys.executable, "-c", "from raycomp.cli import run; run()", *arguments]
    environment = {**os.environ, "TERM": "xterm"} | dict.fromkeys(("COLUMNS", "LINES", "NO_COLOR"), "")
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as running:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not part:
                break
            said += part
    os.close(ours)
    assert running.returncode == 0, said
    return said.decode()


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "command", [["front", SWEEP.name], ["pick", SWEEP.name, "--max-share", "70%"], ["compare", SWEEP.name, "other"]]
)
def test_the_commands_themselves_keep_to_a_terminal(results, columns, command):
    text = in_terminal(columns, *command, "--results", results)
    assert "…" not in text
    assert "┳┳" not in text
    best = max(SWEEP.front, key=lambda row: row.clean_miou + row.corrupted_miou)
    for name in ("clean_miou", "corrupted_miou"):
        assert f"{100 * getattr(best, name):.2f}" in text
    if command[0] != "compare":
        assert best.recipe_id in text
        assert f"{best.gflops_share:.1%}" in text
