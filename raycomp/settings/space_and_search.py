# SPDX-License-Identifier: Apache-2.0
"""Settings of the search space and the search: sections `space` and `search`."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field, field_validator

from raycomp.merging import METHODS

if TYPE_CHECKING:
    MergeName: TypeAlias = str
else:  # the allowed names follow from the registered methods
    MergeName = Literal[tuple(METHODS)]

from raycomp.settings.section import Criterion, Distinct, Section, Share


class WidthRange(Section):
    """Range of a width; its maximum is the dense width."""

    low: int = Field(gt=0)
    """Minimum width: the dense width minus a whole number of steps."""
    step: int = Field(default=8, gt=0)
    """Step between widths."""
    drop: bool = False
    """Heads and MLP: whether a block's attention or MLP may also be dropped whole, as one more step below `low`."""


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
    merge: MergeName = "tome"
    """Merge method whose settings vary."""
    merge_high: float = Field(default=0.5, ge=0, le=0.5)
    """Maximum merge ratio of a block; 0 turns merging off, 0.5 is the maximum of every method."""
    merge_step: float = Field(default=1 / 64, gt=0, le=0.5)
    """Step between merge ratios."""

    @field_validator("embed", "qk", "v")
    @classmethod
    def _stays(cls, allowed: WidthRange | None) -> WidthRange | None:
        if allowed is not None and allowed.drop:
            raise ValueError("only heads and mlp can have drop: true")
        return allowed


class SearchConfig(Section):
    """How the search runs."""

    cost_metric: Literal["gflops", "latency"] = "gflops"
    """The cost that the budget limits and the search minimises: GFLOPs, or the time of a batch on this device."""
    budget: Share = 0.6
    """Maximum cost, as a share of the dense model's."""
    latency_batch: int = Field(default=1, gt=0)
    """For cost metric latency: batch size that is timed. Set it to the batch size of the deployed model, because the
    time that a narrower width saves depends on it."""
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
    def shares(self) -> tuple[float, ...]:
        """Shares of the dense cost to search at, the largest first."""
        within = {share for share in self.baselines if share <= self.budget} if self.front else {self.budget}
        return tuple(sorted(within or {self.budget}, reverse=True))
