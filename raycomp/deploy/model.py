"""A compressed model as one file: weights, recipe, input normalisation, classes, and how to slide over images."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycomp.compress.apply import let_merge
from raycomp.config import explain
from raycomp.data.samples import NORMALIZATIONS
from raycomp.errors import UserError
from raycomp.files import written
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.settings.model_and_data import DataConfig
from raycomp.shape import Side

_Positive = Annotated[float, Field(gt=0)]


class ModelCard(BaseModel):
    """What a user of a model must know beside its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    classes: tuple[str, ...] = Field(min_length=2, max_length=255)
    mean: tuple[float, float, float]
    """Of the pixels, RGB, on a scale of 0 to 1."""
    std: tuple[_Positive, _Positive, _Positive]
    window: tuple[Side, Side]
    """Height and width of what one forward pass sees, pixels."""
    stride: Side
    """Step of the sliding window, pixels."""
    short_side: Side | None
    """What images are resized to first, their ratio kept; None for as they are."""
    long_side: Side | None = None
    """The most that their long side may have then, pixels."""
    dataset: str | None = None
    """Data set of the search space that it was made for; None in files older than this field."""

    @property
    def scope(self) -> str:
        """Which images the model is for, as far as the file says."""
        if self.dataset == "streetscenes":
            return "the model was trained on drawn street scenes (streetscenes): a photograph gives meaningless results"
        made = "" if self.dataset is None else f"was made for the data set {self.dataset} and "
        return f"the model {made}knows {len(self.classes)} classes: {', '.join(self.classes)}"


def facts_of(model: Segmenter, data: DataConfig, classes: tuple[str, ...]) -> ModelCard:
    """The facts of a model as a search space uses it."""
    pixels, window = NORMALIZATIONS[model.shape.normalization], data.window_for(model.shape)
    return ModelCard(
        classes=classes,
        mean=pixels.mean,
        std=pixels.std,
        window=window,
        stride=data.stride_for(model.shape),
        short_side=data.short_side,
        long_side=data.long_side,
        dataset=data.dataset,
    )


FACTS = "facts"
"""Name of the metadata field, in every format, that holds `ModelCard` as JSON."""


def save(model: Segmenter, facts: ModelCard, path: Path) -> None:
    """Write a compressed model (.safetensors), and its recipe as YAML beside it."""
    checkpoints.save(model, path, {FACTS: facts.model_dump_json()})
    with written(path.with_suffix(".yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(model.recipe.model_dump(mode="json"), sort_keys=False))


def load(path: Path | str) -> Segmenter:
    """Rebuild a compressed model from its file: pruned, merging, in evaluation mode.

    Raises:
        UserError: for a file that is not a model of ours.
    """
    model = checkpoints.load(Path(path))
    let_merge(model, model.recipe, checkpoints.load_sharing_policy(Path(path), model))
    return model


def read_facts(path: Path) -> ModelCard:
    """The facts of a file that `save` wrote; raises what `parse_facts` does."""
    return parse_facts(checkpoints.metadata(path).get(FACTS), path)


def parse_facts(text: str | bytes | None, path: Path) -> ModelCard:
    """The facts of a file by what it holds of them.

    Raises:
        UserError: for a file that `raycomp export` did not write.
    """
    if not text:
        raise UserError(f"{path}: field {FACTS!r} is missing: not written by `raycomp export`")
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: {FACTS}: {explain(error, ModelCard)}") from None
