# SPDX-License-Identifier: Apache-2.0
"""Settings of the paper's methods and their comparison: sections `nvit` and `benchmark`."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from raycomp.merging import METHODS
from raycomp.settings.section import Criterion, Distinct, Section
from raycomp.settings.training import FinetuneConfig

if TYPE_CHECKING:
    BenchmarkName: TypeAlias = str
else:  # the allowed names follow from the registered methods
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]


class NvitConfig(Section):
    """How NViT prunes: group sizes (the paper's by default), rounds, and the latency term."""

    embed: int = Field(default=16, gt=0)
    """Group size of embedding channels, which are removed together."""
    heads: int = Field(default=2, gt=0)
    """Group size of heads."""
    qk: int = Field(default=8, gt=0)
    """Group size of query and key channels."""
    v: int = Field(default=8, gt=0)
    """Group size of value channels."""
    mlp: int = Field(default=16, gt=0)
    """Group size of MLP channels."""
    criterion: Criterion = "nvit"
    """Score of a unit in `raycomp prune` and `raycomp benchmark`; sweeps use `search.criterion`."""
    rounds: int = Field(default=8, gt=0)
    """Rounds of pruning; before each but the first, the smaller model is scored again."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Weight of earlier scores in those of a round. NViT's 0.9 suits its 1,200 rounds; with 8 rounds, the scores of the
    dense model would dominate."""
    train_between: FinetuneConfig = FinetuneConfig()
    """Training after each round but the last, before the model is scored again; by default none. Its learning rate
    defaults to that of `benchmark.recovery`."""
    tolerance: float = Field(default=0.99, gt=0, le=1)
    """Minimum cost after a removal, relative to the target. Lower it if pruning stops above its target: in a small
    model, each group may exceed 1 % of the cost."""
    latency_weight: float = Field(default=0.0, ge=0)
    """eta of the paper: score per millisecond that a removal saves."""
    images: int = Field(default=64, gt=0)
    """Training images for the scores."""
    batch: int = Field(default=8, gt=0)
    """Batch size; scores are means over batches."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the scoring."""

    @property
    def training_steps(self) -> int:
        """Training steps between all rounds together."""
        return (self.rounds - 1) * self.train_between.steps


class BenchmarkConfig(Section):
    """The comparison of `raycomp benchmark`; the defaults are the paper's methods and compression levels."""

    methods: Distinct[BenchmarkName] = Field(default=("algm", "cts", "tome", "nvit", "nvit+tome"), min_length=1)
    """Methods to compare."""
    speedups: Distinct[Annotated[float, Field(gt=1)]] = Field(default=(1.4, 2.5, 3.7), min_length=1)
    """Compression levels, as dense GFLOPs over compressed GFLOPs: mild, moderate, aggressive."""
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(default=(0,), min_length=1)
    """Seeds of the fine-tuning; they determine its batches."""
    recovery: FinetuneConfig = FinetuneConfig()
    """Fine-tuning of every model, dense included."""
