"""The runs of the paper's comparison: a method at a compression condition with a seed."""

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
"""Names of the methods in tables and figures; `found` is the best of a finished sweep."""


@dataclass(frozen=True, order=True)
class Condition:
    """A method at a compression condition, which has one point."""

    speedup: float
    """Dense GFLOPs over the target's; 1 for the dense model."""
    method: str

    @property
    def label(self) -> str:
        """`ToMe 2.5x`."""
        return TITLES[self.method] if self.method == "dense" else f"{TITLES[self.method]} {self.speedup:g}x"

    @property
    def prunes(self) -> bool:
        """Whether NViT prunes, before anything merges."""
        return self.method.split("+")[0] == "nvit"

    @property
    def merging(self) -> type[MergeMethod] | None:
        """What merges, if anything does."""
        return METHODS.get(self.method.split("+")[-1])

    @property
    def needs_policy(self) -> bool:
        return self.merging is not None and self.merging.needs_policy

    @property
    def slug(self) -> str:
        """`tome-2.5x`, for file names."""
        return f"{self.method}-{self.speedup:g}x"


@dataclass(frozen=True, order=True)
class Run:
    """One measurement."""

    condition: Condition
    seed: int


def conditions(config: BenchmarkConfig, with_found: bool) -> list[Condition]:
    """Dense and every method at every compression condition, the longest to measure first."""
    methods = [*config.methods, *(["found"] if with_found else [])]
    compressed = [Condition(speedup, method) for speedup in sorted(config.speedups) for method in methods]
    return [Condition(1.0, "dense"), *compressed]


def runs(config: BenchmarkConfig, with_found: bool) -> list[Run]:
    """Every condition with every seed; without recovery nothing is random, and one seed is enough."""
    seeds = config.seeds if config.recovery.steps else config.seeds[:1]
    return [Run(condition, seed) for seed in seeds for condition in conditions(config, with_found)]
