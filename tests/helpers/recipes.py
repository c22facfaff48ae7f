# SPDX-License-Identifier: Apache-2.0
"""Random recipes for a shape, and the scores that keep first units."""

import numpy as np
import torch

from raycomp.compress.saliency import Saliency
from raycomp.merging import Algm, Cts, Merge, ToMe, WindowsToMe
from raycomp.recipe import BlockWidths, Recipe
from raycomp.shape import ModelShape

METHODS = ("mean_keys", "keys", "near_keys", "algm", "adaptive", "cts", "windows_tome", "windows_near", "none")
WINDOWED = ("algm", "adaptive", "cts", "windows_tome", "windows_near")
"""Those that work on 2x2 windows, which an odd grid does not have."""


def random_recipe(shape: ModelShape, rng: np.random.Generator, method: str = "mean_keys") -> Recipe:
    """Widths anywhere up to the dense ones, in steps of 8 where the hardware would want them so."""

    def width(most: int, step: int = 8) -> int:
        return int(rng.integers(1, most // step + 1)) * step

    blocks = tuple(
        BlockWidths(
            heads=int(rng.integers(1, shape.heads + 1)),
            qk=width(shape.head_dim),
            v=width(shape.head_dim),
            mlp=width(shape.mlp),
        )
        for _ in range(shape.depth)
    )
    return Recipe(embed=width(shape.width), blocks=blocks, merge=random_merge(shape, rng, method))


def random_merge(shape: ModelShape, rng: np.random.Generator, method: str) -> Merge | None:
    """Settings anywhere in a method's range; for ToMe its metric is the name."""
    share = float(rng.random())
    match method:
        case "mean_keys" | "keys" | "near_keys":
            ratios = tuple(float(r) for r in rng.uniform(0, 0.5, shape.depth) * (rng.random(shape.depth) < 0.7))
            return ToMe(ratios=ratios, metric=method)
        case "algm":
            return Algm(blocks=(1, int(rng.integers(2, shape.depth + 1))), windows=share, pairs=share / 2)
        case "adaptive":
            return Algm(blocks=(1, int(rng.integers(2, shape.depth + 1))), threshold=2 * share - 1)
        case "windows_tome" | "windows_near":
            block = int(rng.integers(shape.depth))
            merges = (rng.random(shape.depth) < 0.7) & (np.arange(shape.depth) >= block)
            later = rng.uniform(0, 0.5, shape.depth) * merges
            metric = "near_keys" if method == "windows_near" else "mean_keys"
            return WindowsToMe(block=block + 1, windows=share, ratios=tuple(later.tolist()), metric=metric)
        case "cts":
            return Cts(share=0.75 * share, policy="small")
    return None


def falling(saliency: Saliency) -> Saliency:
    """Scores of the same names and shapes that fall with the index of a unit."""
    return {name: -torch.arange(s.shape[-1], dtype=torch.float64).expand_as(s) for name, s in saliency.items()}


def without(recipe: Recipe, attention: tuple[int, ...] = (), mlp: tuple[int, ...] = ()) -> Recipe:
    """The same recipe, some of its blocks without attention or MLP; nothing merges there that needs keys."""
    blocks = list(recipe.blocks)
    for index in attention:
        blocks[index] = blocks[index].model_copy(update={"heads": 0, "qk": 0, "v": 0})
    for index in mlp:
        blocks[index] = blocks[index].model_copy(update={"mlp": 0})
    return Recipe(embed=recipe.embed, blocks=tuple(blocks)).merging(recipe.merge)
