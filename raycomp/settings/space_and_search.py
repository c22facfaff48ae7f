"""Settings of what may vary and how it is searched: sections `space` and `search`."""

from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field

from raycomp.merging import METHODS

if TYPE_CHECKING:
    MergeName: TypeAlias = str
    BenchmarkName: TypeAlias = str
else:  # what is allowed follows from the methods there are
    MergeName = Literal[tuple(METHODS)]
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]

from raycomp.settings.section import Criterion, Distinct, Section, Share


class WidthRange(Section):
    """Range of one width; the dense width is its upper end."""

    low: int = Field(gt=0)
    """The narrowest width: the dense one minus a whole number of steps."""
    step: int = Field(default=8, gt=0)
    """Distance between two widths."""


class SpaceConfig(Section):
    """What may vary. A width left out keeps its dense value."""

    embed: WidthRange | None = None
    """Embedding, the same in the whole model."""
    heads: WidthRange | None = None
    """Attention heads of each block."""
    qk: WidthRange | None = None
    """Queries and keys of each block, per head."""
    v: WidthRange | None = None
    """Values of each block, per head."""
    mlp: WidthRange | None = None
    """Hidden channels of each block's MLP."""
    merge: MergeName = "tome"
    """The merge method whose settings vary."""
    merge_high: float = Field(default=0.5, ge=0, le=0.5)
    """Highest merge ratio of a block; 0 turns merging off, 0.5 is the most that the method can."""
    merge_step: float = Field(default=1 / 64, gt=0, le=0.5)
    """Distance between two merge ratios."""


class SearchConfig(Section):
    """How the space is searched."""

    cost_metric: Literal["gflops", "latency"] = "gflops"
    """What is limited, and as low as it can be beside accuracy: GFLOPs, or the time of a batch on this device."""
    budget: Share = 0.6
    """The limit as a share of the dense model's."""
    latency_batch: int = Field(default=1, gt=0)
    """For limit latency: images timed together. Set it to the batch that the model is to run at: what a width saves
    depends on it."""
    trials: int = Field(default=60, gt=0)
    """Recipes that the search measures, the known ones included; dense, and what the full set adds, do not count."""
    sampler: Literal["gp", "tpe", "nsga2", "random"] = "gp"
    """What proposes recipes after the known ones: gp: Gaussian processes (BoTorch); tpe, nsga2: Optuna's."""
    criterion: Criterion = "taylor"
    """The score that decides which units a trial keeps, and their order in an elastic model."""
    seed: int = 0
    """Seed of the proposals, and of a trial's fine-tuning."""
    workers: int | None = Field(default=None, gt=0)
    """Trials at a time; by default one a CPU, or as many as the GPUs hold."""
    gpus_per_trial: float | None = Field(default=None, ge=0)
    """By default one where the cluster has GPUs; 0.25 packs four trials on one."""
    memory_per_trial: float | None = Field(default=None, gt=0)
    """GiB that a node must have free for each trial it runs; by default nobody counts."""
    baselines: Distinct[Share] = (0.6, 0.5, 0.4, 0.3)
    """Shares of the dense cost at which known recipes are measured first; they take half of the trials at most."""
    max_failures: int = Field(default=2, ge=0)
    """How often a trial whose worker died is tried again."""
    trial_seconds: float | None = Field(default=None, gt=0)
    """A trial that takes longer counts as failed; by default they may take as long as they do."""
