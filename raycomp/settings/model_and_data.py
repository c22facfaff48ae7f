# SPDX-License-Identifier: Apache-2.0
"""Settings of the dense model and of the images: sections `model` and `data`."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from raycomp.errors import nearest
from raycomp.settings.section import Distinct, Section
from raycomp.shape import BACKBONES, ModelShape, Scale, Side, Size, vit_fields


class ModelConfig(Section):
    """The dense model to compress."""

    checkpoint: str
    """A raycomp checkpoint (.safetensors), an official Segmenter checkpoint.pth, or a shipped one: `package:NAME`."""
    shape: ModelShape | None = None
    """Dimensions; required for training, and for `raycomp profile` before a checkpoint exists."""
    elastic: str | None = None
    """Checkpoint of the elastic model: trained for all recipes of the space by `raycomp train --elastic`."""
    backbone: str | None = None
    """For training: the timm model whose ImageNet weights initialise the encoder."""
    backbone_file: Path | None = None
    """For training: a local .safetensors or .pth file with those weights."""

    @model_validator(mode="before")
    @classmethod
    def _named_shape(cls, values: Any) -> Any:
        """Expand `shape: {vit: base, image: ..., classes: ...}`, which names one of the four ViT sizes."""
        shape = values.get("shape") if isinstance(values, dict) else None
        if isinstance(shape, dict) and "vit" in shape:
            rest = {str(key): value for key, value in shape.items()}
            name = rest.pop("vit")
            if not isinstance(name, str) or name not in BACKBONES:
                raise ValueError(f"shape.vit is {name!r}: {nearest(name, BACKBONES)}")
            return {**values, "shape": vit_fields(name, rest)}
        return values


class DataConfig(Section):
    """The images, and how the model processes them."""

    dataset: Literal["streetscenes", "camvid", "ade20k", "cityscapes", "folders"]
    """`folders` is your own data: pairs of `images/SPLIT/NAME.jpg` or .png and `labels/SPLIT/NAME.png`."""
    root: Path | None = None
    """Folder of the data set; not needed for streetscenes."""
    classes: Distinct[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=2, max_length=255)
    """For `folders`: names of the label values 0, 1, ...; 255 means unlabelled. Other data sets define theirs."""
    ignore: Distinct[Annotated[int, Field(ge=0, le=255)]] = ()
    """For `folders`: further label values that mean unlabelled, besides 255."""
    train_split: str = "train"
    """Split for training and for scoring units."""
    eval_split: str = "val"
    """Split for measuring recipes."""
    short_side: Side | None = None
    """Short side that images are resized to, pixels; the aspect ratio is kept. Training varies the size from there."""
    long_side: Side | None = None
    """Maximum long side, pixels, even if the short side then falls below `short_side`."""
    window: tuple[Side, Side] | None = None
    """Height and width of the sliding window, pixels; by default the model's input size."""
    stride: Side | None = None
    """Step of the sliding window, pixels; by default its shorter side."""

    @model_validator(mode="after")
    def _long_side_of_short(self) -> Self:
        if self.long_side is not None and (self.short_side is None or self.long_side < self.short_side):
            raise ValueError(f"long_side is {self.long_side}: expected at least short_side, {self.short_side}")
        return self

    @model_validator(mode="after")
    def _classes_of_folders(self) -> Self:
        if (self.dataset == "folders") != (self.classes is not None):
            raise ValueError(f"classes are for dataset folders, which needs them; the dataset is {self.dataset}")
        if self.ignore and self.classes is None:
            raise ValueError(f"ignore is for dataset folders; the dataset is {self.dataset}, which defines its own")
        for value in self.ignore:
            if self.classes is not None and value < len(self.classes):
                raise ValueError(f"ignore has {value}, which is the value of class {self.classes[value]!r}")
        return self

    @property
    def scale(self) -> Scale:
        """The size that images are resized to."""
        return Scale(self.short_side, self.long_side)

    def window_for(self, shape: ModelShape) -> Size:
        """Return the height and width of the input of one forward pass, pixels."""
        return self.window or shape.image

    def stride_for(self, shape: ModelShape) -> int:
        """Return the step of that window in both directions, pixels."""
        return self.stride or min(self.window_for(shape))
