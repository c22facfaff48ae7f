# SPDX-License-Identifier: Apache-2.0
"""The latency table: what it predicts, keeps in its file and says of itself."""

import json
from dataclasses import replace

import pytest

from raycomp.errors import UserError
from raycomp.evaluate.latency_error import stored_table, table_in_words
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.work import KINDS, work
from raycomp.merging import Algm, ToMe, WindowsToMe
from raycomp.recipe import dense
from tests.conftest import TINY
from tests.helpers.tables import table_of

TABLE = table_of(TINY, softmax=2e-5, halves=0.25)


def test_the_time_is_the_sum_over_kinds_of_work():
    recipe = dense(TINY).merging(ToMe(ratios=(0.25, 0.0, 0.5)))
    done = work(TINY, recipe, TINY.image)
    assert TABLE.latency_ms(recipe) == pytest.approx(2e-5 * done["softmax"] + 0.25 * 6)
    assert TABLE.latency_ms(recipe) < TABLE.latency_ms(dense(TINY))


def test_merging_that_no_timed_model_does_has_no_time():
    pairs = dense(TINY).merging(ToMe(ratios=(0.25, 0.0, 0.5)))
    local = dense(TINY).merging(Algm(blocks=(1, 2), windows=0.5, pairs=0.2))
    windows = replace(TABLE, method="windows_tome")
    assert windows.latency_ms(pairs) == TABLE.latency_ms(pairs), "both merge the same tokens"
    for table, recipe in ((TABLE, local), (replace(TABLE, method=""), pairs)):
        with pytest.raises(ValueError, match=f"no latencies for merging by {recipe.merge.method}"):
            table.latency_ms(recipe)
    both = dense(TINY).merging(WindowsToMe(windows=0.5, ratios=(0.0, 0.1, 0.0)))
    assert windows.latency_ms(both) < windows.latency_ms(dense(TINY))


def test_each_precision_has_costs_of_its_own():
    recipe = dense(TINY).merging(ToMe(ratios=(0.25, 0.0, 0.5)))
    costs = {"int8": {kind: cost / 2 for kind, cost in TABLE.costs["fp32"].items()}}
    both = replace(TABLE, costs={**TABLE.costs, **costs})
    assert both.latency_ms(recipe.at("int8")) == pytest.approx(TABLE.latency_ms(recipe) / 2)
    assert both.latency_ms(recipe) == TABLE.latency_ms(recipe)
    with pytest.raises(ValueError, match="no latencies in int8"):
        TABLE.latency_ms(recipe.at("int8"))


def test_it_is_the_same_after_a_round_trip(tmp_path):
    path = tmp_path / "latency.json"
    table = replace(TABLE, errors={"fp32": (0.01, 0.02)})
    table.save(path)
    assert LatencyTable.load(path) == table


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "not a latency table"),
        ("[]", "not a latency table"),
        ('{"shape": 3}', "not a latency table"),
        (json.dumps({"shape": {}, "parts": {"mlp": []}}), "a latency table of an older release; delete it"),
    ],
)
def test_other_files_are_refused(tmp_path, text, line):
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"latency.json: {line}"):
        LatencyTable.load(path)
    assert stored_table(tmp_path) == ""


def test_a_table_lacks_no_kind_of_work(tmp_path):
    path = tmp_path / "latency.json"
    TABLE.save(path)
    stored = json.loads(path.read_text())
    del stored["costs"]["fp32"][next(iter(KINDS))]
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="not a latency table"):
        LatencyTable.load(path)


def test_setting_and_errors_are_told(tmp_path):
    one = replace(TABLE, errors={"fp32": (0.031, 0.01, 0.08)})
    one.save(tmp_path / "latency.json")
    assert one.about == stored_table(tmp_path) == "cpu; 3.1% off in the median and 8.0% at most, on 3 models"
    two = table_in_words("cpu", {"fp32": (0.01,), "int8": (0.02, 0.04)})
    assert two == (
        "cpu; fp32 1.0% off in the median and 1.0% at most, on 1 models; int8 3.0% off in the median and 4.0% at "
        "most, on 2 models"
    )
    assert table_in_words("cpu", {}) == "cpu"
