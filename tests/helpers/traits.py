# SPDX-License-Identifier: Apache-2.0
"""Tiny shapes with the traits and heads of other ViT families, and recipes that cut all their widths."""

from typing import Any

from raycomp.merging import Merge
from raycomp.recipe import BlockWidths, Recipe
from raycomp.shape import ModelShape
from tests.conftest import TINY
from tests.models.heads.shapes import NAMES, shape_of

TRAITS: dict[str, dict[str, Any]] = {
    "no special tokens": {"prefix": 0},
    "registers": {"prefix": 5, "registers": 4},
    "no position": {"position": "none"},
    "rotary": {"position": "rotary", "prefix": 4, "registers": 3, "normalization": "deit"},
    "swiglu": {"activation": "swiglu", "mlp_width": 88},
    "clip": {"activation": "quick_gelu", "pre_norm": True, "prefix": 1, "normalization": "clip"},
    "tanh": {"activation": "gelu_tanh", "mlp_width": 72},
    "normed queries": {"qk_norm": True},
    "all": {"position": "rotary", "prefix": 4, "registers": 3, "activation": "swiglu", "qk_norm": True},
}
"""Changes to the tiny shape by name."""


SHAPES = (*TRAITS, *(f"head {name}" for name in NAMES))
"""Names of all tiny shapes: one for each trait, one for each head."""


def with_traits(name: str) -> ModelShape:
    if name.startswith("head "):
        return shape_of(name.removeprefix("head "))
    return ModelShape.model_validate(TINY.model_dump() | TRAITS[name])


def cut_everywhere(shape: ModelShape, merge: Merge | None = None, embed: int = 24) -> Recipe:
    """Return a recipe with different widths in each block; QK widths are even, as rotary position requires."""
    widths = ((3, 6, 8, 60), (4, 8, 3, 24), (1, 4, 7, shape.mlp), (2, 8, 8, 40))
    blocks = tuple(BlockWidths(heads=h, qk=qk, v=v, mlp=mlp) for h, qk, v, mlp in widths[: shape.depth])
    return Recipe(embed=embed, blocks=blocks, merge=merge)
