"""Settings of the paper's methods and their comparison: sections `nvit` and `benchmark`."""

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from raycomp.merging import METHODS

if TYPE_CHECKING:
    MergeName: TypeAlias = str
    BenchmarkName: TypeAlias = str
else:  # what is allowed follows from the methods there are
    MergeName = Literal[tuple(METHODS)]
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]

from raycomp.settings.section import Criterion, Distinct, Section
from raycomp.settings.training import FinetuneConfig


class NvitConfig(Section):
    """How NViT prunes: group sizes of the paper, rounds, and the latency term."""

    embed: int = Field(default=16, gt=0)
    """Embedding channels that go together, as a group."""
    heads: int = Field(default=2, gt=0)
    """The same of heads."""
    qk: int = Field(default=8, gt=0)
    """The same of query and key channels."""
    v: int = Field(default=8, gt=0)
    """The same of value channels."""
    mlp: int = Field(default=16, gt=0)
    """The same of MLP channels."""
    criterion: Criterion = "nvit"
    """The score of a unit, for `raycomp prune` and `raycomp benchmark`; sweeps have `search.criterion`."""
    rounds: int = Field(default=8, gt=0)
    """Rounds of pruning; the smaller model is scored anew before each but the first."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of the earlier scores in those of a round. NViT's 0.9 is for its 1,200 rounds: with 8, the scores of
    the dense model would decide nearly alone."""
    train_between: FinetuneConfig = FinetuneConfig()
    """Training after each round but the last, before the model is scored anew. By default there is none; its learning
    rate is by default that of `benchmark.recovery`."""
    tolerance: float = Field(default=0.99, gt=0, le=1)
    """The least cost, relative to the target, that a removal may lead to. Lower it where pruning ends above its
    target, as the groups of a small model may each be more than 1 % of its cost."""
    latency_weight: float = Field(default=0.0, ge=0)
    """eta: score per millisecond that a removal saves."""
    images: int = Field(default=64, gt=0)
    """Training images that saliency is averaged over."""
    batch: int = Field(default=8, gt=0)
    """Images of a batch; saliency is the mean over batches."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the scoring."""

    @property
    def training_steps(self) -> int:
        """Steps of the training between all rounds."""
        return (self.rounds - 1) * self.train_between.steps


class BenchmarkConfig(Section):
    """What `raycomp benchmark` compares; the defaults are the paper's methods and compression levels."""

    methods: Distinct[BenchmarkName] = Field(default=("algm", "cts", "tome", "nvit", "nvit+tome"), min_length=1)
    """Which methods are compared."""
    speedups: Distinct[Annotated[float, Field(gt=1)]] = Field(default=(1.4, 2.5, 3.7), min_length=1)
    """Dense GFLOPs over the recipe's: mild, moderate, aggressive."""
    seeds: Distinct[Annotated[int, Field(ge=0)]] = Field(default=(0,), min_length=1)
    """Of the recovery, whose batches they draw."""
    recovery: FinetuneConfig = FinetuneConfig()
    """Fine-tuning of every model, dense included."""
