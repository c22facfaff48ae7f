"""The cells of the paper's comparison: a method at a compression level with a seed."""

from dataclasses import dataclass

from raycomp.merging import METHODS, MergeMethod
from raycomp.sections import BenchmarkConfig

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
class Level:
    """A method at a compression level, which has one setting."""

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
class Cell:
    """One measurement."""

    level: Level
    seed: int


def levels(config: BenchmarkConfig, with_found: bool) -> list[Level]:
    """Dense and every method at every compression level, the longest to measure first."""
    methods = [*config.methods, *(["found"] if with_found else [])]
    compressed = [Level(speedup, method) for speedup in sorted(config.speedups) for method in methods]
    return [Level(1.0, "dense"), *compressed]


def cells(config: BenchmarkConfig, with_found: bool) -> list[Cell]:
    """Every level with every seed; without recovery nothing is random, and one seed is enough."""
    seeds = config.seeds if config.recovery.steps else config.seeds[:1]
    return [Cell(level, seed) for seed in seeds for level in levels(config, with_found)]
