# SPDX-License-Identifier: Apache-2.0
"""A compressed model in one file: weights, recipe, normalisation, classes and sliding window."""

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
    """What users of a model need besides its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    classes: tuple[str, ...] = Field(min_length=2, max_length=255)
    mean: tuple[float, float, float]
    """Pixel mean, RGB, on a scale of 0 to 1."""
    std: tuple[_Positive, _Positive, _Positive]
    window: tuple[Side, Side]
    """Height and width of the input of one forward pass, pixels."""
    stride: Side
    """Step of the sliding window, pixels."""
    short_side: Side | None
    """Short side that images are resized to first, keeping their aspect ratio; None for no resizing."""
    long_side: Side | None = None
    """Maximum long side of a resized image, pixels."""
    dataset: str | None = None
    """Data set of the search space; None in files older than this field."""

    @property
    def scope(self) -> str:
        """Describe the images that the model is for, as far as known."""
        if self.dataset == "streetscenes":
            return "the model was trained on drawn street scenes (streetscenes): a photograph gives meaningless results"
        made = "" if self.dataset is None else f"was made for the data set {self.dataset} and "
        return f"the model {made}knows {len(self.classes)} classes: {', '.join(self.classes)}"


def card_of(model: Segmenter, data: DataConfig, classes: tuple[str, ...]) -> ModelCard:
    """Build the card of a model as used by a search space."""
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


CARD_FIELD = "facts"
"""Metadata field, in every format, that holds the `ModelCard` as JSON."""


def save(model: Segmenter, card: ModelCard, path: Path) -> None:
    """Write a compressed model (.safetensors), with its recipe as YAML beside it."""
    checkpoints.save(model, path, {CARD_FIELD: card.model_dump_json()})
    with written(path.with_suffix(".yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(model.recipe.model_dump(mode="json"), sort_keys=False))


def load(path: Path | str) -> Segmenter:
    """Load a compressed model: pruned, merging tokens, in evaluation mode.

    Raises:
        UserError: if the file is not a raycomp model.
    """
    model = checkpoints.load(Path(path))
    let_merge(model, model.recipe, checkpoints.load_sharing_policy(Path(path), model))
    return model


def read_card(path: Path) -> ModelCard:
    """Read the card of a file that `save` wrote; raises as `parse_card`."""
    return parse_card(checkpoints.metadata(path).get(CARD_FIELD), path)


def parse_card(text: str | bytes | None, path: Path) -> ModelCard:
    """Parse the card in a file's metadata.

    Raises:
        UserError: if `raycomp export` did not write the file.
    """
    if not text:
        raise UserError(f"{path}: field {CARD_FIELD!r} is missing: not written by `raycomp export`")
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: {CARD_FIELD}: {explain(error, ModelCard)}") from None
