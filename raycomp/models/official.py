# SPDX-License-Identifier: Apache-2.0
"""Read an official Segmenter run: a torch checkpoint and the `variant.yml` beside it (REFERENCE 3)."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from raycomp.config import explain, parsed
from raycomp.errors import UserError, first_line
from raycomp.models import tensors
from raycomp.models.segmenter import Segmenter, empty
from raycomp.recipe import dense
from raycomp.shape import ModelShape, Size

_CLASSIFIERS = ("encoder.head.", "encoder.head_dist.")  # ImageNet classifiers, unused in segmentation


class _Decoder(BaseModel):
    name: Literal["linear", "mask_transformer"]
    n_layers: int | None = Field(default=None, ge=0)


class _Net(BaseModel):
    """The fields of net_kwargs that define the model's shape; others are ignored."""

    d_model: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    n_layers: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    image_size: Size
    n_cls: int = Field(gt=1)
    distilled: bool = False
    normalization: Literal["vit", "deit"]
    decoder: _Decoder

    @field_validator("image_size", mode="before")
    @classmethod
    def _both_sides(cls, value: object) -> object:
        if isinstance(value, int):
            raise ValueError(f"expected height and width, as in [{value}, {value}]")
        return value

    def shape(self) -> ModelShape:
        masks = self.decoder.name != "linear"
        return ModelShape(
            width=self.d_model,
            heads=self.n_heads,
            depth=self.n_layers,
            patch=self.patch_size,
            image=self.image_size,
            classes=self.n_cls,
            prefix=2 if self.distilled else 1,
            decoder="mask" if masks else "linear",
            decoder_depth=self.decoder.n_layers or 0 if masks else 0,
            norm_eps=1e-5,
            normalization=self.normalization,
        )


class _Variant(BaseModel):
    net_kwargs: _Net


def load(path: Path) -> Segmenter:
    """Load the dense model of a run.

    Raises:
        UserError: if `variant.yml` is missing or malformed, or the weights do not fit it.
    """
    shape = _read_shape(path)
    kept = {name: t for name, t in tensors.read(path).items() if not name.startswith(_CLASSIFIERS)}
    model = empty(shape, dense(shape))
    tensors.fill(model, kept, path)
    return model


def _read_shape(path: Path) -> ModelShape:
    variant = path.with_name("variant.yml")
    if not variant.is_file():
        raise UserError(
            f"{path}: a torch checkpoint without a variant.yml beside it; expected a .safetensors written by raycomp, "
            "or the checkpoint.pth and variant.yml of an official Segmenter run"
        )
    try:
        return _Variant.model_validate(parsed(variant.read_text(encoding="utf-8"))).net_kwargs.shape()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{variant}: cannot read net_kwargs, which describes {path.name} ({first_line(error)})"
        ) from None
    except ValidationError as error:
        raise UserError(f"{variant}: {explain(error, _Variant)}") from None
