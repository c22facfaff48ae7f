# SPDX-License-Identifier: Apache-2.0
"""Features of recipes that their accuracy is approximately linear in.

Every width contributes its compression and the square of it, and every dropped sublayer an indicator. Merging
contributes the tokens that are gone after each block, in halvings, because what a merge costs depends on how many
tokens are left. Windows of neighbours lose other tokens than pairs do, so their share contributes as well.

Legend: C points, D dimensions of the space, F features, L blocks.
"""

from dataclasses import dataclass

import numpy as np

from raycomp.search.point_costs import PointCosts
from raycomp.search.surrogate import max_steps
from raycomp.space import Space


@dataclass(frozen=True)
class Described:
    """Points in the terms of the model."""

    features: np.ndarray
    """(C, F)."""
    places: np.ndarray
    """(C, D + L) compression of every dimension and share of tokens gone after each block, in which near recipes are
    near."""
    gflops: np.ndarray
    """(C,)."""


class Features:
    """Computes the features of grid points; a point is its steps of compression in each dimension."""

    def __init__(self, space: Space) -> None:
        dimensions = list(space.dimensions.values())
        self.limits = max_steps(dimensions)
        """Maximum steps (D,)."""
        self.costs = PointCosts(space)
        """Costs of grid points."""
        kinds = np.array([dimension.name.partition("_")[0] for dimension in dimensions])
        self._widths = np.flatnonzero(kinds != "merge")
        names = [dimension.name for dimension in dimensions]
        self._windows = [index for index, name in enumerate(names) if name.startswith("merge_windows")]
        self._drops = [index for index in self._widths if dimensions[index].drop]
        _, tokens = self.costs(np.zeros((1, len(dimensions)), int))
        self._tokens = tokens[0]
        depth = len(self._tokens)
        widths = kinds[self._widths].tolist()
        self.groups = [
            *widths,
            *(f"{kind} squared" for kind in widths),
            *(f"{kinds[index]} dropped" for index in self._drops),
            *["tokens"] * depth,
            *["tokens squared"] * depth,
            *["windows", "windows squared"] * len(self._windows),
        ]
        """Group of each feature (F): features of a group are expected to matter equally."""

    def __call__(self, steps: np.ndarray) -> Described:
        """Describe points (C, D)."""
        gflops, tokens = self.costs(steps)
        compression = steps / self.limits
        gone = np.log2(self._tokens / tokens) / 2  # (C, L), 1 for a quarter of the tokens left
        widths = compression[:, self._widths]
        dropped = (steps == self.limits)[:, self._drops].astype(float)
        parts = [widths, widths**2, dropped, gone, gone**2]
        for index in self._windows:
            parts += [compression[:, [index]], compression[:, [index]] ** 2]
        return Described(np.hstack(parts), np.hstack([compression, gone / 2]), gflops)
