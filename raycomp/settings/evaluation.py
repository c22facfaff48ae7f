# SPDX-License-Identifier: Apache-2.0
"""Settings of the measurement: section `evaluation`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from raycomp.settings.section import Distinct, Section


class StageConfig(Section):
    """Number of images of a stage: clean ones, and those of every corrupted variant."""

    clean: int = Field(gt=0)
    """Clean images."""
    corrupted: int = Field(gt=0)
    """Images of each (type, severity); variants use different images."""
    severities: Distinct[Annotated[int, Field(ge=1, le=5)]] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    """Severities to measure; 1 is the mildest."""


class EvaluationConfig(Section):
    """How a recipe is measured."""

    early_stopping: StageConfig | None = None
    """First images of the search stage. A recipe that can no longer reach the front stops after them. By default, every
    trial measures all images."""
    search: StageConfig = StageConfig(clean=64, corrupted=2)
    """The stage of every trial."""
    full: StageConfig = StageConfig(clean=128, corrupted=16)
    """The stage of the full evaluation, at the end: the dense model, the baselines and the front."""
    batch: int = Field(default=32, gt=0)
    """Windows per forward pass. A GPU without enough memory halves it; adaptive merging takes one at a time."""
    at: Literal["original", "resized"] = "original"
    """Label size of the full evaluation where `data.short_side` resizes images. original: the stored size, as in
    published results. resized: the size of the images, which is faster. The search stage always uses resized labels."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the model in evaluation."""
    seed: int = 0
    """Seed of the corruptions."""

    @model_validator(mode="after")
    def _early_images_are_part_of_search(self) -> Self:
        if self.early_stopping is not None:
            for name in ("clean", "corrupted"):
                if getattr(self.early_stopping, name) > getattr(self.search, name):
                    raise ValueError(
                        f"early_stopping.{name} is {getattr(self.early_stopping, name)}: "
                        f"expected at most search.{name}, {getattr(self.search, name)}"
                    )
            if more := set(self.early_stopping.severities) - set(self.search.severities):
                raise ValueError(f"early_stopping.severities has {min(more)}, which search.severities lacks")
        return self
