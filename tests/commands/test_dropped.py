# SPDX-License-Identifier: Apache-2.0
"""What the commands and the pages say of recipes that drop sublayers, and of spaces that may."""

import json
from dataclasses import replace

import pytest
import yaml

from raycomp.context.sweep_context import Elastic
from raycomp.errors import UserError
from raycomp.merging import ToMe
from raycomp.recipe import dense
from raycomp.report.page.charts import describe
from raycomp.report.page.recipe_charts import depth_figure
from raycomp.search.proposal import Proposal
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.jobs import make_place, raycomp
from tests.helpers.recipes import without
from tests.helpers.trials import fake_row

RECIPE = without(dense(TINY), (1,), (1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = make_place(tmp_path_factory.mktemp("dropped"))
    recipe = RECIPE.model_dump(mode="json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    merging = ToMe(ratios=(0.0, 0.25, 0.0)).model_dump(mode="json")
    (folder / "keyless.yaml").write_text(yaml.safe_dump(recipe | {"merge": merging}))
    recipe["blocks"][0]["qk"] = 0
    (folder / "half.yaml").write_text(yaml.safe_dump(recipe))
    space = yaml.safe_load((folder / "space.yaml").read_text())
    may = {"heads": {"low": 2, "step": 1, "drop": True}, "mlp": {"low": 64, "step": 16, "drop": True}}
    for name, ranges in {"may": may, "wrong": {"qk": {"low": 4, "step": 4, "drop": True}}}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(space | {"space": ranges}))
    return folder


def test_explain_shows_that_they_cost_nothing(folder):
    done = raycomp(folder, "explain", "recipe.yaml", "--space", "space.yaml", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["id"], told["family"], told["gflops_blocks"][1]) == (RECIPE.id, "prune", 0)
    assert told["recipe"]["blocks"][1] == {"heads": 0, "qk": 0, "v": 0, "mlp": 0}
    shown = raycomp(folder, "explain", "recipe.yaml", "--space", "space.yaml").stdout.splitlines()
    (gone,) = [line for line in shown if line.replace("│", " ").split()[:5] == ["1", "0", "0", "0", "0"]]
    assert " 0%" in gone
    assert "█" not in gone


def test_profile_reaches_down_to_the_cheapest(folder):
    done = raycomp(folder, "profile", "may.yaml", "--budget", "50%", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["cheapest"]["gflops"] < told["smallest"]["gflops"]
    assert told["at_budget"]["gflops"] <= told["budget_gflops"]
    refused = raycomp(folder, "profile", "may.yaml", "--budget", "1%")
    assert "cannot be met: the cheapest recipe of the space costs" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("explain half.yaml --space space.yaml", "heads 4, qk 0, v 8: a block without attention has 0 of all three"),
        (
            "explain keyless.yaml --space space.yaml",
            "by ToMe compares keys, which blocks without attention (1)",
        ),
        ("profile wrong.yaml", "field 'space.qk': only heads and mlp can have drop: true"),
    ],
)
def test_bad_input_is_one_line(folder, arguments, told):
    done = raycomp(folder, *arguments.split())
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert told in done.stderr


def test_charts_along_the_depth():
    row = fake_row(TINY, Proposal(0, "search", "proposed", "", RECIPE))
    assert "heads 4 0 4" in describe(row)
    figure = depth_figure(row, fake_row(TINY, Proposal(0, "search", "reference", "", dense(TINY))))
    assert any(list(bar.y) == [128, 0, 0] for bar in figure.data)


def test_an_elastic_model_that_never_saw_it_refuses_it(context):
    shape = context.shape
    for drop, said in ((False, "outside the space .*: blocks.1.heads is 0, the minimum is 2"), (True, "")):
        ranges = {"heads": WidthRange(low=2, step=1, drop=drop), "mlp": WidthRange(low=64, drop=drop)}
        space = Space(shape, SpaceConfig(**ranges), shape.image)
        held = replace(context, elastic=Elastic(context.weights, space, "elastic"))
        recipe = without(dense(shape), (1,), (2,))
        if said:
            with pytest.raises(UserError, match=said):
                held.cut(recipe)
        else:
            assert held.cut(recipe).recipe == recipe
