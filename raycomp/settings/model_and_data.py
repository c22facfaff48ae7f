"""Settings of the dense model and of the images: sections `model` and `data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from raycomp.errors import nearest
from raycomp.merging import METHODS
from raycomp.shape import BACKBONES, ModelShape, Scale, Side, Size, vit_fields

if TYPE_CHECKING:
    MergeName: TypeAlias = str
    BenchmarkName: TypeAlias = str
else:  # what is allowed follows from the methods there are
    MergeName = Literal[tuple(METHODS)]
    BenchmarkName = Literal[(*METHODS, "nvit", *(f"nvit+{name}" for name in METHODS))]

from raycomp.settings.section import Distinct, Section


class ModelConfig(Section):
    """Which dense model is compressed."""

    checkpoint: str
    """A file of ours (.safetensors), an official Segmenter checkpoint.pth, or `package:NAME`."""
    shape: ModelShape | None = None
    """Dimensions; needed for training and for `profile` before a checkpoint exists."""
    elastic: str | None = None
    """The same model trained for all recipes of the space (`raycomp train --elastic`), named likewise."""
    backbone: str | None = None
    """For training: timm model whose ImageNet weights the encoder starts from."""
    backbone_file: Path | None = None
    """For training: a local safetensors or .pth file with those weights."""

    @model_validator(mode="before")
    @classmethod
    def _named_shape(cls, values: Any) -> Any:
        """`shape: {vit: base, image: ..., classes: ...}` names one of the four ViT sizes."""
        shape = values.get("shape") if isinstance(values, dict) else None
        if isinstance(shape, dict) and "vit" in shape:
            rest = {str(key): value for key, value in shape.items()}
            name = rest.pop("vit")
            if not isinstance(name, str) or name not in BACKBONES:
                raise ValueError(f"shape.vit is {name!r}: {nearest(name, BACKBONES)}")
            return {**values, "shape": vit_fields(name, rest)}
        return values


class DataConfig(Section):
    """Which images, and how they are put through the model."""

    dataset: Literal["streetscenes", "camvid", "ade20k", "cityscapes", "folders"]
    """`folders`: your own, pairs of `images/SPLIT/NAME.jpg` or .png and `labels/SPLIT/NAME.png`."""
    root: Path | None = None
    """Folder of the data set; streetscenes needs none."""
    classes: Distinct[Annotated[str, Field(min_length=1)]] | None = Field(default=None, min_length=2, max_length=255)
    """Of `folders`: names of the label values 0, 1, ...; 255 is not labelled. The other data sets know theirs."""
    ignore: Distinct[Annotated[int, Field(ge=0, le=255)]] = ()
    """Of `folders`: label values that are no classes, beside 255; those pixels are not labelled."""
    train_split: str = "train"
    """The split that models are trained and units are scored on."""
    eval_split: str = "val"
    """The split that recipes are measured on."""
    short_side: Side | None = None
    """Images are resized, keeping their ratio, to this short side, in pixels; training varies their size from there."""
    long_side: Side | None = None
    """The long side is at most this, in pixels, even where the short side then is shorter than `short_side`."""
    window: tuple[Side, Side] | None = None
    """Sliding window; by default the size the model was made for."""
    stride: Side | None = None
    """Step of the sliding window, pixels; by default the window's shorter side."""

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
            raise ValueError(f"ignore is for dataset folders; the dataset is {self.dataset}, which knows its own")
        for value in self.ignore:
            if self.classes is not None and value < len(self.classes):
                raise ValueError(f"ignore has {value}, which is the value of class {self.classes[value]!r}")
        return self

    @property
    def scale(self) -> Scale:
        """The size that images are brought to."""
        return Scale(self.short_side, self.long_side)

    def window_for(self, shape: ModelShape) -> Size:
        """Height and width of what one forward pass sees, pixels."""
        return self.window or shape.image

    def stride_for(self, shape: ModelShape) -> int:
        """Step of that window, down and across, pixels."""
        return self.stride or min(self.window_for(shape))
