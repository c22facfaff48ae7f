# SPDX-License-Identifier: Apache-2.0
"""Settings of the search space and the search: sections `space` and `search`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, field_validator, model_validator

from raycomp.merging import METHODS
from raycomp.recipe import RecipePrecision

if TYPE_CHECKING:
    MergeName: TypeAlias = str
else:  # the allowed names follow from the registered methods
    MergeName = Literal[tuple(METHODS)]

from raycomp.settings.amounts import (
    Amount,
    Budget,
    FileLimit,
    GflopsLimit,
    MemoryLimit,
    ParamsLimit,
    TimeLimit,
    parsed_limit,
)
from raycomp.settings.section import Criterion, Distinct, Section, Share


class BlockRange(Section):
    """Changes to the range of a width in one block."""

    low: int | None = Field(default=None, gt=0)
    """Minimum width."""
    step: int | None = Field(default=None, gt=0)
    """Step between widths."""
    drop: bool | None = None
    """Whether the half may be dropped."""


class WidthRange(Section):
    """Range of a width; its maximum is the dense width."""

    low: int = Field(gt=0)
    """Minimum width: the dense width minus a whole number of steps."""
    step: int = Field(default=8, gt=0)
    """Step between widths."""
    drop: bool = False
    """Heads and MLP: whether a block's attention or MLP may also be dropped whole, as one more step below `low`."""
    blocks: dict[Annotated[int, Field(ge=0)], BlockRange] = Field(default_factory=dict)
    """Changes for single blocks, counted from 0: `{0: {low: 448}}`."""


class FixedConfig(Section):
    """What the search does not touch."""

    blocks: Distinct[Annotated[int, Field(ge=0)]] = ()
    """Blocks, counted from 0, that keep their full widths and do not merge."""


class SpaceConfig(Section):
    """The dimensions that vary. A width that is not given keeps its dense value."""

    embed: WidthRange | None = None
    """Embedding width, one for the complete model."""
    heads: WidthRange | None = None
    """Attention heads of each block."""
    qk: WidthRange | None = None
    """Query and key width of each block, per head."""
    v: WidthRange | None = None
    """Value width of each block, per head."""
    mlp: WidthRange | None = None
    """Hidden width of each block's MLP."""
    fixed: FixedConfig = FixedConfig()
    """What the search does not touch."""
    merge: MergeName = "tome"
    """Merge method whose settings vary."""
    merge_high: float = Field(default=0.5, ge=0, le=0.5)
    """Maximum merge ratio of a block; 0 turns merging off, 0.5 is the maximum of every method."""
    merge_step: float = Field(default=1 / 64, gt=0, le=0.5)
    """Step between merge ratios."""
    precision: Distinct[RecipePrecision] = Field(default=("fp32",), min_length=1)
    """Precisions of a recipe's linear maps: `[fp32, int8]` lets the search choose. INT8 needs times to count, measured
    in onnxruntime on a CPU."""

    @field_validator("embed", "qk", "v")
    @classmethod
    def _stays(cls, allowed: WidthRange | None) -> WidthRange | None:
        if allowed is not None and (allowed.drop or any(own.drop for own in allowed.blocks.values())):
            raise ValueError("only heads and mlp can have drop: true")
        return allowed

    @field_validator("embed")
    @classmethod
    def _one_width(cls, allowed: WidthRange | None) -> WidthRange | None:
        if allowed is not None and allowed.blocks:
            raise ValueError("the embedding has one width for all blocks, so it has no field blocks")
        return allowed


class LimitsConfig(Section):
    """Limits that every measured recipe keeps besides the budget: shares of the dense model's costs, or amounts."""

    gflops: GflopsLimit | None = None
    """GFLOPs per image: 40%, or 0.2 GFLOPs."""
    params: ParamsLimit | None = None
    """Parameters: 50%, or 1M."""
    ms: TimeLimit | None = None
    """Time of a batch of `search.latency_batch` images on this device, by a latency table: 60%, or 8 ms."""
    memory: MemoryLimit | None = None
    """Weights and peak activations of such a batch, in the evaluation's precision: 70%, or 20 MB."""
    file: FileLimit | None = None
    """File of the exported model, in ONNX for INT8: 50%, or 4 MB."""


METRICS = {"gflops": "gflops", "ms": "latency"}
"""Cost metric of a budget, by the cost of its unit."""


def metric_of(budget: object) -> str | None:
    """Return the cost metric that the unit of a budget implies; None for a share, or if it cannot be read."""
    try:
        limit = parsed_limit(budget, ("gflops", "ms"))
    except ValueError:
        return None
    return METRICS[limit.cost] if isinstance(limit, Amount) else None


class SearchConfig(Section):
    """How the search runs."""

    cost_metric: Literal["gflops", "latency"] = "gflops"
    """The cost that the budget limits and the search minimises: GFLOPs, or the time of a batch on this device."""
    budget: Budget = 0.6
    """Maximum cost: a share of the dense model's, or an amount such as 0.2 GFLOPs or 8 ms, which sets `cost_metric`."""
    limits: LimitsConfig = LimitsConfig()
    """Limits on further costs."""
    latency_batch: int = Field(default=1, gt=0)
    """Batch size for times (cost metric latency, `limits.ms`) and memory. Set it to that of the deployed model, because
    the time that a narrower width saves depends on it."""
    latency_engine: Literal["torch", "onnxruntime"] = "torch"
    """What runs the timed models: torch, or onnxruntime after an export to ONNX."""
    latency_threads: int | None = Field(default=None, gt=0)
    """Threads of the timed models on a CPU; by default those of a trial."""
    trials: int = Field(default=60, gt=0)
    """Trials to spend, including baselines. A recipe measured on the images of `evaluation.search` is one trial, a
    probe as much of one as it has images. The dense model and the full evaluation do not count."""
    front: bool = True
    """Whether to search at every share of `baselines` within the budget; otherwise all trials are near the budget."""
    sampler: Literal["additive", "gp", "tpe", "nsga2", "random"] = "additive"
    """Sampler that proposes recipes after the baselines. additive: a model of what every part of a recipe is worth, and
    a solver; gp: Gaussian processes (BoTorch); tpe, nsga2: Optuna's."""
    criterion: Criterion = "taylor"
    """Score that decides which units a trial keeps, and their order in an elastic model."""
    seed: int = 0
    """Seed of the proposals and of the fine-tuning in trials."""
    workers: int | None = Field(default=None, gt=0)
    """Parallel trials; by default one per CPU, or as many as fit on the GPUs."""
    gpus_per_trial: float | None = Field(default=None, ge=0)
    """GPUs per trial; by default 1 if the cluster has GPUs. 0.25 packs four trials on a GPU."""
    memory_per_trial: float | None = Field(default=None, gt=0)
    """GiB of memory that Ray reserves on a node for each trial; by default none."""
    baselines: Distinct[Share] = (0.6, 0.5, 0.4, 0.3)
    """Shares of the dense cost at which baselines are measured first; they take at most half of the trials."""
    max_failures: int = Field(default=2, ge=0)
    """Number of retries of a trial whose worker died."""
    trial_seconds: float | None = Field(default=None, gt=0)
    """Time limit of a trial in seconds, after which it fails; by default none."""

    @property
    def needs_times(self) -> bool:
        """Whether the search needs a latency table."""
        return self.cost_metric == "latency" or self.limits.ms is not None

    @model_validator(mode="before")
    @classmethod
    def _metric_by_budget(cls, data: Any) -> Any:
        if isinstance(data, dict) and "cost_metric" not in data and (metric := metric_of(data.get("budget"))):
            return data | {"cost_metric": metric}
        return data

    @model_validator(mode="after")
    def _budget_of_the_metric(self) -> Self:
        if isinstance(self.budget, Amount) and METRICS[self.budget.cost] != self.cost_metric:
            raise ValueError(
                f"budget {self.budget} needs cost_metric {METRICS[self.budget.cost]}, not {self.cost_metric}; "
                "or give the budget as a share such as 60%"
            )
        return self

    def shares(self, budget: float) -> tuple[float, ...]:
        """Return the shares of the dense cost to search at, the largest first; `budget` is a share, too."""
        within = {share for share in self.baselines if share <= budget * (1 + 1e-9)} if self.front else set[float]()
        return tuple(sorted(within or {budget}, reverse=True))
