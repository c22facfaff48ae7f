# SPDX-License-Identifier: Apache-2.0
"""`raycomp solve`: its answer, what it prints and refuses, and the measurements that it adds to a sweep."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycomp.commands import solve
from raycomp.commands.solve import solve_command
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.jobs import confirming
from raycomp.recipe import Recipe, dense
from raycomp.report.sweep_view import SweepView
from raycomp.results.store import Store
from raycomp.search.proposal import Source
from tests.conftest import TINY
from tests.helpers.solving import TINY_SWEEP, row_of, sampled, sweep_rows
from tests.helpers.sweep_views import stored
from tests.helpers.tables import table_of

FULL = gflops(TINY, dense(TINY))


@pytest.fixture
def results(tmp_path):
    return stored(tmp_path, SweepView("solved", TINY_SWEEP, sweep_rows(sampled(30), full=30, gain=0.01)))


def solved(results: str, capsys: pytest.CaptureFixture[str], **options: Any) -> Any:
    solve_command("solved", **options, results=results, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_the_answer_as_json(results, capsys):
    told = solved(results, capsys, budget="50%", max_params="90%")
    assert told["sweep"] == "solved"
    assert told["asked"] == {"budget": 0.5, "limits": {"params": 0.9}, "confirm": None}
    assert told["stage"] == "full"
    [found] = told["solutions"]
    assert found["recipe_id"] == Recipe.model_validate(found["recipe"]).id
    assert set(found["costs"]) == {"gflops", "gflops_share", "params", "memory", "file"}
    assert found["costs"]["gflops_share"] <= 0.5
    for name in ("clean_miou", "corrupted_miou"):
        one = found["expected"][name]
        assert 0 < one["low"] <= one["expected"] <= one["high"] < 1
    assert found["measured"] is None
    assert told["best_measured"]["gflops"] <= 0.5 * FULL
    assert told["best_measured"]["stage"] == "full"
    assert told["best_measured"]["costs"]["gflops"] == pytest.approx(told["best_measured"]["gflops"])


def test_the_answer_as_a_table(results, capsys):
    solve_command("solved", budget="50%", results=results)
    text = capsys.readouterr().out
    assert "solution 1" in text
    assert "best measured" in text
    assert "add --confirm 1" in text


def test_a_budget_in_gflops_is_that_share_and_a_limit_alone_is_enough(results, capsys):
    half = solved(results, capsys, budget="50%")["solutions"]
    assert solved(results, capsys, budget=f"{0.5 * FULL!r}GFLOPs")["solutions"] == half
    assert solved(results, capsys, max_gflops=0.5 * FULL)["solutions"] == half


def test_a_limit_in_ms_holds_by_the_latency_table_of_the_sweep(results, capsys):
    table = table_of(TINY, linear=1e-6, softmax=1e-5, halves=0.1)
    table.save(Path(results) / "solved" / "latency.json")
    most = 0.7 * table.latency_ms(dense(TINY))
    told = solved(results, capsys, max_ms=most)
    [found] = told["solutions"]
    assert found["costs"]["ms"] == table.latency_ms(Recipe.model_validate(found["recipe"]))
    assert 0 < found["costs"]["ms"] <= most
    assert told["best_measured"] is None or told["best_measured"]["costs"]["ms"] <= most
    assert solved(results, capsys, budget=f"{most!r}ms")["solutions"] == told["solutions"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "solve needs a limit: --budget, --max-gflops, --max-params, --max-ms, --max-memory, --max-file"),
        ({"budget": "half"}, "--budget half: expected a share of dense such as 40%, or 0.2 GFLOPs or 8 ms"),
        ({"budget": "95%"}, "--budget 95%: the sweep searched only up to 90%; nearest: --budget 90%"),
        ({"budget": "8ms", "max_ms": 7.0}, "--budget 8ms: --max-ms limits the same cost; give one of them"),
        ({"budget": "8ms"}, "a limit in ms needs the sweep's latency table, but there is no "),
        ({"max_gflops": -1.0}, "--max-gflops -1: expected a number above 0 such as 0.2"),
        ({"max_params": "1%"}, "--max-params 1.0% ("),
    ],
)
def test_wrong_limits_are_one_line(results, options, line):
    with pytest.raises(UserError) as told:
        solve_command("solved", **options, results=results)
    assert str(told.value).startswith(line)
    assert "\n" not in str(told.value)


def test_a_sweep_that_is_not_there_and_one_without_shape_are_one_line(results, tmp_path):
    with pytest.raises(UserError, match=r"no sweep in .*; did you mean 'solved'\?"):
        solve_command("solvd", budget="50%", results=results)
    shapeless = TINY_SWEEP.model_copy(update={"model": TINY_SWEEP.model.model_copy(update={"shape": None})})
    elsewhere = stored(tmp_path / "elsewhere", SweepView("solved", shapeless, []))
    with pytest.raises(UserError, match=r"sweep.yaml: field 'model.shape' is missing and .*gone.safetensors"):
        solve_command("solved", budget="50%", results=elsewhere)


class Job:
    """A session that measures by the known truth instead of on a cluster."""

    def __init__(self, store: Store, most: int | None = None) -> None:
        """`most`: measurements before an interruption."""
        self.config, self.store, self.folder, self.most = store.config(), store, store.folder, most
        self.measured: list[tuple[str, str]] = []
        self.logged: list[str] = []

    def prepared(self, rows: Any, open_store: bool) -> Any:
        assert not open_store
        return SimpleNamespace(evalset=SimpleNamespace(classes=("a",)))

    def track(self, classes: Any, rows: Any) -> Any:
        return SimpleNamespace(log=lambda row: self.logged.append(row.identity), attach=lambda paths: None)

    def run(self, context: Any, samples: Any, store: Store, source: Source, on_row: Any) -> None:
        while (self.most is None or len(self.measured) < self.most) and (proposal := source.next()) is not None:
            row = row_of(proposal.recipe, proposal.number, proposal.stage, 0.01, sweep="solved")
            store.write(row)
            source.tell(row)
            on_row(row)
            self.measured.append(proposal.key)

    def say(self, line: str) -> None: ...
    def warn(self, line: str) -> None: ...
    def leave(self) -> None: ...
    def finish(self, front: Any, finished: bool, hypervolume: float | None) -> None: ...


@pytest.fixture
def cluster(monkeypatch, results):
    """Makes commands measure in a `Job`; returns a function that sets one up."""

    def of(most: int | None = None) -> Job:
        job = Job(Store(Path(results) / "solved"), most)

        @contextmanager
        def session(config: Any, store: Store, uri: str, console: Any) -> Any:
            try:
                yield job
            finally:
                store.lock.drop()

        monkeypatch.setattr(solve, "session", session)
        monkeypatch.setattr(confirming, "run_sweep", job.run)
        for name in ("preloaded", "write_sweep_page", "plot_front"):
            monkeypatch.setattr(confirming, name, lambda *_: None)
        monkeypatch.setattr("raycomp.cluster.placement.announce", lambda *_: None)
        return job

    return of


def test_confirmed_solutions_are_rows_of_the_sweep_at_both_stages(results, capsys, cluster):
    before, job = Store(Path(results) / "solved").rows(), cluster()
    told = solved(results, capsys, budget="50%", confirm=2)
    ids = [one["recipe_id"] for one in told["solutions"]]
    assert job.measured == [(stage, one) for one in ids for stage in ("search", "full")]
    rows = Store(Path(results) / "solved").rows()
    assert len(rows) == len(before) + 4
    assert len({(row.stage, row.recipe_id) for row in rows}) == len(rows)
    assert len({(row.stage == "full", row.number) for row in rows}) == len(rows)
    assert [one["measured"]["recipe_id"] for one in told["solutions"]] == ids
    assert told["best_measured"]["recipe_id"] in ids
    assert not (Path(results) / "solved" / "confirming.json").exists()


@pytest.mark.parametrize("most", [1, 2, 3])
def test_an_interrupted_confirmation_goes_on_with_the_same_solutions(results, capsys, cluster, most):
    first = cluster(most)
    with pytest.raises(KeyboardInterrupt):
        solve_command("solved", budget="50%", confirm=2, results=results)
    assert len(first.measured) == most
    capsys.readouterr()
    second = cluster()
    told = solved(results, capsys, budget="50%", confirm=2)
    ids = [one["recipe_id"] for one in told["solutions"]]
    assert first.measured + second.measured == [(stage, one) for one in ids for stage in ("search", "full")]


def test_what_is_measured_already_is_not_measured_again(results, capsys, cluster):
    cluster()
    told = solved(results, capsys, budget="50%", confirm=1)
    again = cluster()
    after = solved(results, capsys, budget="50%", confirm=1)
    assert again.measured == []
    assert after["solutions"][0]["measured"] == told["solutions"][0]["measured"]
    rows = Store(Path(results) / "solved").rows()
    assert len({(row.stage, row.recipe_id) for row in rows}) == len(rows)
