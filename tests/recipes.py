"""Random recipes for a shape."""

import numpy as np

from raycomp.recipe import BlockWidths, Recipe, ToMe
from raycomp.shape import ModelShape


def random_recipe(
    shape: ModelShape, rng: np.random.Generator, merging: bool = True, metric: str = "mean_keys"
) -> Recipe:
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
    ratios = tuple(float(r) for r in rng.uniform(0, 0.5, shape.depth) * (rng.random(shape.depth) < 0.7))
    merge = ToMe(ratios=ratios, metric=metric) if merging else None
    return Recipe(embed=width(shape.width), blocks=blocks, merge=merge)
