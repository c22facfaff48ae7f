# SPDX-License-Identifier: Apache-2.0
"""The runs of the paper's comparison: a method at a speedup with a seed."""

from dataclasses import dataclass

from raycomp.merging import METHODS, MergeMethod
from raycomp.settings.comparison import BenchmarkConfig

STAGE = "benchmark"
TITLES = {
    "dense": "dense",
    **{name: method.title for name, method in METHODS.items()},
    "nvit": "NViT",
    **{f"nvit+{name}": f"NViT+{method.title}" for name, method in METHODS.items()},
    "found": "raycomp",
}
"""Method names in tables and figures. `found` is the best recipe of a finished sweep."""


@dataclass(frozen=True, order=True)
class Condition:
    """A method at a speedup; it has one operating point."""

    speedup: float
    """Dense GFLOPs over target GFLOPs; 1 for the dense model."""
    method: str

    @property
    def label(self) -> str:
        """Name in tables: `ToMe 2.5x`."""
        return TITLES[self.method] + ("" if self.method == "dense" else f" {self.speedup:g}x")

    @property
    def prunes(self) -> bool:
        """Whether NViT prunes, before any merging."""
        return self.method.split("+")[0] == "nvit"

    @property
    def merging(self) -> type[MergeMethod] | None:
        """The merge method, if any."""
        return METHODS.get(self.method.split("+")[-1])

    @property
    def needs_policy(self) -> bool:
        """Whether the merge method needs a policy network."""
        return self.merging is not None and self.merging.needs_policy

    @property
    def slug(self) -> str:
        """Name of files: `tome-2.5x`."""
        return f"{self.method}-{self.speedup:g}x"


@dataclass(frozen=True, order=True)
class Run:
    """One measurement."""

    condition: Condition
    seed: int


def conditions(config: BenchmarkConfig, with_found: bool) -> list[Condition]:
    """Return the dense model and every method at every speedup, the slowest to measure first."""
    methods = [*config.methods, "found"] if with_found else config.methods
    compressed = [Condition(speedup, method) for speedup in sorted(config.speedups) for method in methods]
    return [Condition(1.0, "dense"), *compressed]


def runs(config: BenchmarkConfig, with_found: bool) -> list[Run]:
    """Return every condition with every seed. Without recovery nothing is random, and one seed is enough."""
    seeds = config.seeds if config.recovery.steps else config.seeds[:1]
    return [Run(condition, seed) for seed in seeds for condition in conditions(config, with_found)]
