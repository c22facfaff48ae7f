# SPDX-License-Identifier: Apache-2.0
"""Fields of transformers and mmsegmentation configurations that readers use; others are ignored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from raycomp.config import explain
from raycomp.errors import UserError
from raycomp.models.readers.source import DINOV3_ROPE_BASE
from raycomp.shape import Size

_Count = Annotated[int, Field(ge=1)]
_Sides = _Count | tuple[_Count, _Count]
_Settings = TypeVar("_Settings", bound=BaseModel)


class HfConfig(BaseModel):
    """`config.json` of transformers."""

    model_type: str | None = None
    architectures: list[str] | None = None
    hidden_size: _Count | None = None
    num_hidden_layers: _Count | None = None
    num_attention_heads: _Count | None = None
    patch_size: _Sides | None = None
    image_size: _Sides | None = None
    hidden_act: str | None = None
    layer_norm_eps: float | None = None
    use_swiglu_ffn: bool = False
    rope_theta: float | None = None
    rope_parameters: dict[str, Any] | None = None
    backbone_out_indices: list[int] | None = None
    """Blocks that DPT reads, counted from 0."""
    readout_type: Literal["ignore", "add", "project"] = "project"
    reassemble_factors: list[float] | None = None
    neck_ignore_stages: list[int] | None = None
    is_hybrid: bool = False
    head_in_index: int = -1

    @property
    def rope_base(self) -> float:
        """Base of the rotary periods, which newer versions of transformers nest."""
        nested = (self.rope_parameters or {}).get("rope_theta")
        return (nested if isinstance(nested, int | float) else None) or self.rope_theta or DINOV3_ROPE_BASE


class MmNorm(BaseModel):
    """Section `norm_cfg`."""

    eps: float | None = None


class _Typed(BaseModel):
    type: str | None = None


class MmBackbone(_Typed):
    """Section `model.backbone` of mmsegmentation."""

    img_size: _Sides | None = None
    patch_size: _Count | None = None
    embed_dims: _Count | None = None
    num_layers: _Count | None = None
    num_heads: _Count | None = None
    out_indices: int | list[int] = -1
    final_norm: bool = False
    norm_cfg: MmNorm | None = None
    act_cfg: _Typed | None = None


class MmHead(_Typed):
    """Section `model.decode_head`."""

    num_heads: _Count | None = None
    in_index: int | list[int] = -1
    readout_type: Literal["ignore", "add", "project"] = "ignore"
    pool_scales: list[int] = [1, 2, 3, 6]
    up_scale: int = 2
    norm_layer: MmNorm | None = None


class MmNeck(_Typed):
    """Section `model.neck`."""

    scales: list[float] = [4, 2, 1, 0.5]


class MmPixels(BaseModel):
    """Mean and std of pixels."""

    mean: list[float] | None = None
    std: list[float] | None = None


class MmModel(_Typed):
    """Section `model`."""

    backbone: MmBackbone | None = None
    neck: MmNeck | None = None
    decode_head: MmHead = MmHead()
    data_preprocessor: MmPixels | None = None


class MmConfig(BaseModel):
    """A configuration of mmsegmentation."""

    model: MmModel = MmModel()
    data_preprocessor: MmPixels | None = None
    img_norm_cfg: MmPixels | None = None

    @property
    def pixels(self) -> MmPixels:
        """Mean and std of pixels, from the section that this version of mmsegmentation uses."""
        return self.model.data_preprocessor or self.data_preprocessor or self.img_norm_cfg or MmPixels()


def checked(model: type[_Settings], settings: Mapping[str, Any], where: str) -> _Settings:
    """Validate the settings in a mapping.

    Raises:
        UserError: naming the field that is wrong.
    """
    try:
        return model.model_validate(dict(settings))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, model)}") from None


def both(value: int | Size | None) -> Size | None:
    """Return height and width; one number stands for both."""
    return (value, value) if isinstance(value, int) else value
