"""Settings of the measurement: section `evaluation`."""

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from raycomp.merging import METHODS

if TYPE_CHECKING:
    MergeName: TypeAlias = str
    BenchmarkName: TypeAlias = str
else:  # what is allowed follows from the methods there are
    MergeName = Literal[tuple(METHODS)]
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]

from raycomp.settings.section import Distinct, Section


class StageConfig(Section):
    """How much is measured: so many clean images, so many of every corrupted variant."""

    clean: int = Field(gt=0)
    """Clean images."""
    corrupted: int = Field(gt=0)
    """Images of each (type, severity); different variants take different images."""
    severities: Distinct[Annotated[int, Field(ge=1, le=5)]] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    """Which severities are measured, 1 the mildest."""


class EvaluationConfig(Section):
    """How a recipe is measured."""

    early_stopping: StageConfig | None = None
    """The images of the search stage that come first: a recipe that cannot reach the front any more stops there. By
    default all are measured."""
    search: StageConfig = StageConfig(clean=64, corrupted=2)
    """Every trial."""
    full: StageConfig = StageConfig(clean=128, corrupted=16)
    """The dense model, the baselines and the front, at the end."""
    batch: int = Field(default=32, gt=0)
    """Windows of a forward pass, halved where a GPU has no room for them; adaptive merging takes one at a time."""
    at: Literal["original", "resized"] = "original"
    """Size at which the full set is measured, where `data.short_side` resizes images. original: labels at their stored
    size, as in published figures. resized: labels at the size of the images, which is faster. The search stage always
    uses resized labels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model while it is measured."""
    seed: int = 0
    """Seed of the corruptions."""

    @model_validator(mode="after")
    def _early_images_are_part_of_search(self) -> Self:
        if self.early_stopping is not None:
            for name in ("clean", "corrupted"):
                if getattr(self.early_stopping, name) > getattr(self.search, name):
                    most = getattr(self.search, name)
                    raise ValueError(
                        f"early_stopping.{name} is {getattr(self.early_stopping, name)}; at most search.{name}, {most}"
                    )
            if more := set(self.early_stopping.severities) - set(self.search.severities):
                raise ValueError(f"early_stopping.severities has {min(more)}, which search.severities has not")
        return self
