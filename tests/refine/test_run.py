# SPDX-License-Identifier: Apache-2.0
"""Which recipes of a sweep are refined."""

import pytest

from raycomp.errors import UserError
from raycomp.recipe import dense
from raycomp.refine.front import front_targets
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from tests.conftest import TINY
from tests.helpers.trials import fake_row


def rows() -> list[Row]:
    """The dense model and three that trade accuracy for GFLOPs, measured on the full set."""
    recipes = [dense(TINY).model_copy(update={"embed": embed}) for embed in (32, 28, 24, 16)]
    return [
        fake_row(TINY, Proposal(number, "full", "reference" if number == 0 else "proposed", "", recipe))
        for number, recipe in enumerate(recipes)
    ]


def test_the_front_with_every_seed_cheapest_first():
    wanted = front_targets(rows(), 0.95, seeds=(0, 1))
    assert [(one.recipe.embed, one.seed) for one in wanted] == [
        (16, 0), (16, 1), (24, 0), (24, 1), (28, 0), (28, 1),
    ]  # fmt: skip
    assert all(one.row.recipe_id == one.recipe.id for one in wanted)
    assert front_targets(rows(), 0.01, seeds=(0,)) == []


def test_fewer_by_number_or_by_id():
    assert len(front_targets(rows(), 0.95, (0,), top=2)) == 2
    chosen = rows()[2].recipe_id
    assert [one.row.recipe_id for one in front_targets(rows(), 0.95, (0,), ids=[chosen[:6]])] == [chosen]
    with pytest.raises(UserError, match=r"--recipes 0000: not on the front; "):
        front_targets(rows(), 0.95, (0,), ids=["0000"])
