# SPDX-License-Identifier: Apache-2.0
"""A sweep over a tiny space whose accuracies are known exactly: the loss of every recipe is a product of effects."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raycomp.config import SweepConfig
from raycomp.flops import gflops, profile
from raycomp.recipe import Recipe, dense
from raycomp.results.row import Row
from raycomp.search.proposal import Proposal
from raycomp.space import Space
from tests.conftest import TINY
from tests.helpers.trials import fake_row

TINY_SWEEP = SweepConfig.model_validate(
    {
        "name": "solved",
        "model": {"checkpoint": "gone.safetensors", "shape": TINY.model_dump(mode="json")},
        "data": {"dataset": "streetscenes"},
        "space": {"embed": {"low": 16}, "mlp": {"low": 32, "step": 32}, "merge_high": 0.5, "merge_step": 0.125},
        "search": {"budget": "90%", "sampler": "random"},
    }
)
SPACE = Space.of(TINY_SWEEP, TINY)


def truth(recipe: Recipe) -> tuple[float, float]:
    """Clean and corrupted mIoU: every width, and every halving of the tokens after a block, multiplies the loss."""
    effect = 1.5 * (1 - recipe.embed / TINY.width)
    effect += sum((0.5 + 0.4 * i) * (1 - block.mlp / TINY.mlp) for i, block in enumerate(recipe.blocks))
    tokens = zip(profile(TINY, dense(TINY)).tokens, profile(TINY, recipe).tokens, strict=True)
    effect += sum((0.3 + 0.2 * i) * np.log2(whole / left) for i, (whole, left) in enumerate(tokens))
    return 0.82 - 0.02 * np.exp(effect), 0.62 - 0.02 * np.exp(1.1 * effect)


def row_of(recipe: Recipe, number: int, stage: str = "search", gain: float = 0.0, **changes: Any) -> Row:
    """The row of a recipe; `gain` is added to its mIoUs."""
    origin = "reference" if recipe == dense(TINY) else "proposed"
    clean, corrupted = truth(recipe)
    row = fake_row(TINY, Proposal(number, stage, origin, "dense" if origin == "reference" else "", recipe))
    about: dict[str, Any] = {
        "checkpoint": "weights",
        "evalset": "images",
        "clean_miou": clean + gain,
        "corrupted_miou": corrupted + gain,
    }
    return replace(row, **about | changes)


def sampled(count: int, seed: int = 0, budget: float = 0.9) -> list[Recipe]:
    """Random recipes within the budget, each once."""
    rng, found = np.random.default_rng(seed), dict[str, Recipe]()
    while len(found) < count:
        recipe = SPACE.recipe(SPACE.draw(rng, 0.3 * gflops(TINY, dense(TINY))))
        if gflops(TINY, recipe) <= budget * gflops(TINY, dense(TINY)):
            found[recipe.id] = recipe
    return list(found.values())


def sweep_rows(recipes: Sequence[Recipe], full: int = 0, gain: float = 0.0) -> list[Row]:
    """The dense model and recipes at the search stage; the dense model and the first `full` recipes at both."""
    whole = [dense(TINY), *recipes]
    rows = [row_of(one, number) for number, one in enumerate(whole)]
    return rows + [row_of(one, number, "full", gain) for number, one in enumerate(whole[: 1 + full if full else 0])]
