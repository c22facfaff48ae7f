# SPDX-License-Identifier: Apache-2.0
"""Read an official Segmenter run: a torch checkpoint and the `variant.yml` beside it (REFERENCE 3)."""

import re
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from raycomp.config import explain, parsed
from raycomp.errors import UserError, first_line
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import Source, Translation
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


def matches(source: Source) -> bool:
    """Return True for the tensors of a Segmenter."""
    linear = "decoder.head.weight" in source.tensors and source.path.with_name("variant.yml").is_file()
    return linear or "decoder.cls_emb" in source.tensors


def read(source: Source) -> Translation:
    """Return the dense model of a run; its tensors already have raycomp's names.

    Raises:
        UserError: if `variant.yml` is missing or malformed.
    """
    ledger = Ledger(source.tensors, source.path)
    shape = read_shape(source.path)
    ledger.leave({rf"{re.escape(head)}.*": "image classifier" for head in _CLASSIFIERS})
    tensors = {name: ledger.take(name) for name in ledger.names("")}
    return Translation(family="Segmenter", shape=shape, tensors=tensors, has_head=True, left=tuple(ledger.left))


def read_shape(path: Path) -> ModelShape:
    """Return the shape in the `variant.yml` beside a checkpoint.

    Raises:
        UserError: if it is missing or malformed.
    """
    variant = path.with_name("variant.yml")
    if not variant.is_file():
        raise UserError(
            f"{path}: a torch checkpoint without a variant.yml beside it; expected a .safetensors written by raycomp, "
            "or the checkpoint.pth and variant.yml of an official Segmenter run; `raycomp import` translates others"
        )
    try:
        return _Variant.model_validate(parsed(variant.read_text(encoding="utf-8"))).net_kwargs.shape()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{variant}: cannot read net_kwargs, which describes {path.name} ({first_line(error)})"
        ) from None
    except ValidationError as error:
        raise UserError(f"{variant}: {explain(error, _Variant)}") from None
