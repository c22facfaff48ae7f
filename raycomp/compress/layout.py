# SPDX-License-Identifier: Apache-2.0
"""Table of the prunable units along each axis of each parameter, for saliency and slicing.

An axis name stands for one set of units: `embed`, and for block i `block.i.qkv` (rows of q, k and v,
heads outermost), `block.i.v` (columns of the output projection) and `block.i.mlp`. In the
decoder, `decoder.embed` is its width, `decoder.out` the output of its mask projections, and
`decoder.block.i.*` are its blocks.
"""

from collections.abc import Iterator
from functools import cache

from torch import nn

from raycomp.models.segmenter import Segmenter

Axes = tuple[str | None, ...]

_BLOCK: dict[str, Axes] = {
    "norm1.weight": ("embed",),
    "norm1.bias": ("embed",),
    "attn.qkv.weight": ("qkv", "embed"),
    "attn.qkv.bias": ("qkv",),
    "attn.proj.weight": ("embed", "v"),
    "attn.proj.bias": ("embed",),
    "norm2.weight": ("embed",),
    "norm2.bias": ("embed",),
    "mlp.fc1.weight": ("mlp", "embed"),
    "mlp.fc1.bias": ("mlp",),
    "mlp.fc2.weight": ("embed", "mlp"),
    "mlp.fc2.bias": ("embed",),
}
_ENCODER: dict[str, Axes] = {
    "encoder.cls_token": (None, None, "embed"),
    "encoder.dist_token": (None, None, "embed"),
    "encoder.pos_embed": (None, None, "embed"),
    "encoder.patch_embed.proj.weight": ("embed", None, None, None),
    "encoder.patch_embed.proj.bias": ("embed",),
    "encoder.norm.weight": ("embed",),
    "encoder.norm.bias": ("embed",),
}
_DECODER: dict[str, Axes] = {
    "decoder.head.weight": (None, "embed"),
    "decoder.head.bias": (None,),
    "decoder.cls_emb": (None, None, "decoder.embed"),
    "decoder.proj_dec.weight": ("decoder.embed", "embed"),
    "decoder.proj_dec.bias": ("decoder.embed",),
    "decoder.decoder_norm.weight": ("decoder.embed",),
    "decoder.decoder_norm.bias": ("decoder.embed",),
    "decoder.proj_patch": ("decoder.embed", "decoder.out"),
    "decoder.proj_classes": ("decoder.embed", "decoder.out"),
    "decoder.mask_norm.weight": (None,),
    "decoder.mask_norm.bias": (None,),
}


def axes(model: Segmenter) -> Iterator[tuple[str, nn.Parameter, Axes]]:
    """Yield every parameter of a model with the units along each of its axes."""
    for name, parameter in model.named_parameters():
        yield name, parameter, _axes_of(name)


@cache
def _axes_of(name: str) -> Axes:
    part, kind, *rest = name.split(".")
    if kind != "blocks":
        return _ENCODER.get(name) or _DECODER[name]
    index, local = rest[0], ".".join(rest[1:])
    where = "" if part == "encoder" else "decoder."
    return tuple(
        f"{where}embed" if axis == "embed" else axis and f"{where}block.{index}.{axis}" for axis in _BLOCK[local]
    )
