# SPDX-License-Identifier: Apache-2.0
"""Finding a recipe by a prefix of its id, and reading lists."""

from dataclasses import replace

import pytest
import typer

from raycomp.cli import app
from raycomp.commands.inputs import names, numbers, stored_recipe
from raycomp.config import SweepConfig
from raycomp.errors import UserError
from raycomp.merging import ToMe
from raycomp.recipe import dense
from raycomp.results.store import Store
from raycomp.search.proposal import Proposal
from tests.conftest import TINY
from tests.helpers.trials import fake_row

RECIPES = [dense(TINY), dense(TINY).model_copy(update={"merge": ToMe(ratios=(0.5, 0.0, 0.0))})]


def add_sweep(results, name: str, mode: str = "none", checkpoint: str = "a") -> None:
    config = SweepConfig.model_validate(
        {
            "name": name,
            "model": {"checkpoint": "none"},
            "data": {"dataset": "streetscenes"},
            "recovery": {"mode": mode},
        }
    )
    store = Store(results / name)
    store.open(config)
    for number, recipe in enumerate(RECIPES):
        store.write(
            replace(
                fake_row(TINY, Proposal(number, "search", "baseline", "", recipe)), sweep=name, checkpoint=checkpoint
            )
        )


def test_a_recipe_that_sweeps_make_alike_is_one(tmp_path):
    add_sweep(tmp_path, "first")
    add_sweep(tmp_path, "second")
    found = stored_recipe(RECIPES[1].id[:6], str(tmp_path))
    assert (found.recipe, found.folder) == (RECIPES[1], tmp_path / "first")
    assert found.config.name == "first"


@pytest.mark.parametrize("other", [{"mode": "reconstruct"}, {"checkpoint": "b"}])
def test_different_models_of_a_recipe_need_the_sweep(tmp_path, other):
    add_sweep(tmp_path, "first")
    add_sweep(tmp_path, "second", **other)
    with pytest.raises(UserError, match="the sweeps first, second make different models of it; choose one by --sweep"):
        stored_recipe(RECIPES[0].id, str(tmp_path))
    assert stored_recipe(RECIPES[0].id, str(tmp_path), "second").folder == tmp_path / "second"


def test_what_is_not_there_or_not_unique_is_said(tmp_path):
    with pytest.raises(UserError, match=f"no recipe 'abc': there is no sweep in {tmp_path}"):
        stored_recipe("abc", str(tmp_path))
    add_sweep(tmp_path, "first")
    with pytest.raises(UserError, match=f"no recipe 'abc': there is no sweep lost in {tmp_path}"):
        stored_recipe("abc", str(tmp_path), "lost")
    with pytest.raises(UserError, match=f"did you mean .{RECIPES[0].id}"):
        stored_recipe(RECIPES[0].id[:8] + "zzzz", str(tmp_path))
    with pytest.raises(UserError, match=f"is not unique: {RECIPES[0].id}, {RECIPES[1].id}"):
        stored_recipe("", str(tmp_path))


def test_every_command_that_answers_speaks_json():
    commands = typer.main.get_group(app).commands
    without = {name for name, command in commands.items() if not any("--json" in p.opts for p in command.params)}
    assert without == {"train", "refine", "prune", "benchmark", "watch", "autoscale-demo"}, "only jobs may do without"


def test_lists_of_numbers_and_names():
    assert numbers("--batch", "1, 16,", 1, 64) == [1, 16]
    for wrong in ("0", "65", "x"):
        with pytest.raises(UserError, match=f"--batch {wrong}: expected numbers from 1 to 64"):
            numbers("--batch", wrong, 1, 64)
    assert names("--formats", "onnx, pt2", ("onnx", "pt2")) == ["onnx", "pt2"]
    with pytest.raises(UserError, match="--formats onx: "):
        names("--formats", "onx", ("onnx", "pt2"))
