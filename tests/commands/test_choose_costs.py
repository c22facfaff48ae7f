# SPDX-License-Identifier: Apache-2.0
"""`raycomp pick` with limits on parameters, time and memory, alone and together."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycomp.commands.choose import pick_command
from raycomp.errors import UserError
from raycomp.footprint import memory, params
from raycomp.objectives import mean_accuracy
from raycomp.recipe import dense
from raycomp.results.row import Row
from tests.conftest import TINY
from tests.helpers.sweep_views import stored, sweep_view
from tests.helpers.tables import table_of
from tests.helpers.trials import TokenClock

FULL = dense(TINY)
CLOCK = TokenClock(TINY)


def view_of(**changes: Any):
    """The tiny sweep, with the parameters that its models really have."""
    view = sweep_view()
    model = view.config.model.model_copy(update={"shape": TINY})
    rows = [replace(row, params=params(TINY, row.recipe), **changes) for row in view.rows]
    return replace(view, config=view.config.model_copy(update={"model": model}), rows=rows)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("results"), view_of())


def picked(results: str, capsys: pytest.CaptureFixture[str], **limits: Any) -> Any:
    pick_command("tiny", **limits, results=results, as_json=True)
    return json.loads(capsys.readouterr().out)


def within(keep) -> list[Row]:
    return [row for row in view_of().rows if row.stage == "full" and keep(row)]


def footprint(row: Row) -> int:
    return memory(TINY, row.recipe).total


def test_each_limit_alone_and_all_together(results, capsys):
    most = params(TINY, FULL) * 0.8
    heaviest = sorted(footprint(row) for row in within(lambda _: True))[5]
    cases: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
        ({"max_params": "80%"}, lambda row: row.params <= most),
        ({"max_params": f"{int(most)}"}, lambda row: row.params <= most),
        ({"max_memory": f"{heaviest} B"}, lambda row: footprint(row) <= heaviest),
        ({"max_file": "80%"}, lambda row: row.params <= most),
        ({"max_file": f"{4 * int(most)} B"}, lambda row: row.params <= most),
        (
            {"max_params": "80%", "max_memory": f"{heaviest} B", "max_gflops": 0.008, "max_share": "60%"},
            lambda row: row.params <= most and footprint(row) <= heaviest and row.gflops <= 0.008,
        ),
    ]
    for limits, keep in cases:
        told = picked(results, capsys, **limits)
        allowed = within(keep)
        best = max(allowed, key=mean_accuracy)
        assert mean_accuracy(best) == pytest.approx(
            (told["recipe"]["clean_miou"] + told["recipe"]["corrupted_miou"]) / 2
        )
        for one in (told["recipe"], *told["others"]):
            assert one["recipe_id"] in {row.recipe_id for row in allowed}
        assert set(told["recipe"]["costs"]) == set(told["sources"])


def test_the_answer_has_its_costs_and_where_they_come_from(results, capsys):
    pick_command("tiny", max_params="90%", max_memory="1 GB", results=results)
    text = " ".join(capsys.readouterr().out.split())
    assert "k parameters (counted)" in text
    assert "kB (weights and peak activations in float32 at batch 1, estimated)" in text


def test_times_are_those_of_the_latency_table_if_there_is_one(tmp_path, capsys):
    view = view_of()
    timed = replace(view, rows=[replace(row, predicted_ms=CLOCK.latency_ms(row.recipe)) for row in view.rows])
    folder = stored(tmp_path, timed)
    told = picked(folder, capsys, max_ms=80)
    assert told["recipe"]["costs"]["ms"] <= 80
    assert told["sources"]["ms"] == "predicted by the sweep's latency table"
    table = replace(table_of(TINY), setting="cpu, batch 1", errors={"fp32": (0.01, 0.02, 0.09)})
    table.save(Path(folder) / "tiny" / "latency.json")
    told = picked(folder, capsys, max_ms=80)
    about = "cpu, batch 1; 2.0% off in the median and 9.0% at most, on 3 models"
    assert told["sources"]["ms"] == f"predicted by the sweep's latency table: {about}"


def test_times_of_trials_say_that_other_trials_ran(results, capsys):
    told = picked(results, capsys, max_ms=4)
    assert told["recipe"]["costs"] == {"ms": 3.0}
    assert told["sources"]["ms"] == "measured at batch 1 while other trials ran"
    with pytest.raises(UserError, match=r"no recipe has at most 2 ms; nearest: \w+ with .*, 3 ms"):
        pick_command("tiny", max_ms=2, results=results)


def speeds(folder: Path, times: dict[str, float], **changes: Any) -> Path:
    """A file as `raycomp speed --json` prints it, with another runtime after the first."""
    path = folder / "speed.json"
    common = {"batch": 1, "gflops": 1.0, "setting": "cpu, float32, 1 thread(s)"} | changes
    entries = [{"model": name, "runtime": "torch", "latency_ms": ms} | common for name, ms in times.items()]
    path.write_text(json.dumps([*entries, *({**one, "runtime": "onnxruntime", "latency_ms": 0.1} for one in entries)]))
    return path


def test_times_of_another_device_come_from_a_file_of_raycomp_speed(results, capsys, tmp_path):
    first, second, *_ = within(lambda row: row.origin != "reference")
    file = speeds(tmp_path, {"dense": 20.0, first.recipe_id: 9.0, second.recipe_id: 7.0})
    told = picked(results, capsys, max_ms=8, speed=file)
    assert told["recipe"]["recipe_id"] == second.recipe_id
    assert told["recipe"]["costs"] == {"ms": 7.0}
    assert not told["others"]
    assert told["sources"]["ms"].startswith("torch at batch 1, cpu, float32, 1 thread(s) (")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"max_params": "much"}, "--max-params much: expected a share of dense such as 40%, or 1 M"),
        ({"max_memory": "5"}, "--max-memory 5: expected a share of dense such as 5%, or 5 MB"),
        ({"max_file": "4 ms"}, "--max-file 4 ms: expected a share of dense such as 4%, or 4 MB"),
        ({"max_ms": -1.0}, "--max-ms -1: expected a time above 0 such as 8"),
        ({"speed": Path("x.json"), "max_params": "1M"}, "--speed x.json: only --max-ms needs it"),
        ({"speed": Path("none.json"), "max_ms": 8.0}, "--speed none.json: expected what `raycomp speed NAME --json`"),
        ({"max_params": "2"}, "no recipe has at most 0.002 k parameters; nearest:"),
    ],
)
def test_wrong_limits_are_one_line(results, options, line):
    with pytest.raises(UserError) as told:
        pick_command("tiny", **options, results=results)
    assert str(told.value).startswith(line)


def test_a_sweep_without_times_says_how_to_get_them(tmp_path, results):
    untimed = stored(tmp_path, view_of(latency_ms=None))
    with pytest.raises(UserError, match="no times of single recipes; time its front with `raycomp speed NAME --json"):
        pick_command("tiny", max_ms=8.0, results=untimed)
    with pytest.raises(UserError, match="has no recipe of the sweep"):
        pick_command("tiny", max_ms=8.0, speed=speeds(tmp_path, {"dense": 3.0}), results=results)
