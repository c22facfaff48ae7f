# SPDX-License-Identifier: Apache-2.0
"""Read mmsegmentation's models on its VisionTransformer; `heads` and `mm_heads` have their heads.

Settings come from the configuration in the checkpoint or beside it (`mmconfig`). Batch norm before `conv_seg`, as in
DINOv2's linear heads, is folded.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from raycomp.errors import UserError, nearest
from raycomp.models.readers.assemble import translated
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.mm_heads import reads_several, take_head
from raycomp.models.readers.mmconfig import config_of
from raycomp.models.readers.source import Facts, Source, Translation, normalization_of, sides

_HEADS = ("SegmenterMaskTransformerHead", "FCNHead", "BNHead", "DPTHead", "UPerHead", "SETRUPHead")
_LAYER = (
    (r"ln([12])\.", r"norm\1."),
    (r"attn\.attn\.in_proj_", "attn.qkv."),
    (r"attn\.attn\.out_proj\.", "attn.proj."),
    (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
    (r"ffn\.layers\.1\.", "mlp.fc2."),
)


def layer_name(name: str) -> str:
    """Return timm's name of a part of a transformer layer."""
    for pattern, part in _LAYER:
        name = re.sub(f"^{pattern}", part, name)
    return name


def _renamed(name: str) -> str:
    short = name.removeprefix("module.")
    if layer := re.match(r"(backbone|decode_head)\.layers\.(\d+)\.", short):
        before = "" if layer[1] == "backbone" else "decode_head."
        return f"{before}blocks.{layer[2]}.{layer_name(short[layer.end() :])}"
    short = short.removeprefix("backbone.")
    return re.sub(r"^ln1\.", "norm.", re.sub(r"^patch_embed\.projection\.", "patch_embed.proj.", short))


def matches(source: Source) -> bool:
    """Return True for tensors of mmsegmentation's VisionTransformer."""
    return any(key.endswith("layers.0.attn.attn.in_proj_weight") and "backbone." in key for key in source.tensors)


def read(source: Source) -> Translation:
    """Translate a model.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    ledger = Ledger(source.tensors, source.path, _renamed)
    config = config_of(source)
    model = config.get("model")
    section: Mapping[str, Any] = model if isinstance(model, dict) else {}
    head = section.get("decode_head") or {}
    kind = head.get("type") if isinstance(head, dict) else None
    if kind is not None and kind not in _HEADS:
        raise UserError(f"{source.path}: the configuration has decode_head.type {kind!r}: {nearest(kind, _HEADS)}")
    ledger.leave({r"auxiliary_head(\.\d+)?\..*": "auxiliary head, used in training only"})
    if not section:
        ledger.infer("settings of mmsegmentation's Segmenter, for it has no configuration inside or beside it")
    facts = _facts(source, section, config)
    _place_norm(ledger, section, facts)
    family = f"{kind or 'ViT'} of mmsegmentation"
    return translated(source, ledger, facts, family, partial(take_head, section))


def _place_norm(ledger: Ledger, model: Mapping[str, Any], facts: Facts) -> None:
    """Give the encoder its final norm: that of SETR's head, or none before the heads that read several blocks.

    Raises:
        UserError: if a head of the last block lacks one.
    """
    if "decode_head.norm.weight" in ledger and "norm.weight" not in ledger:
        settings = (model.get("decode_head") or {}).get("norm_layer") or {}
        if (eps := settings.get("eps", 1e-6)) != facts.norm_eps:
            raise UserError(
                f"{ledger.path}: the norm of its head has epsilon {eps}, those of its encoder {facts.norm_eps}"
            )
        ledger.rename("decode_head.norm.", "norm.")
        ledger.fold("the norm of the head is the encoder's final norm")
    several = reads_several(ledger)
    if "norm.weight" not in ledger and several:
        ledger.add("norm.weight", torch.ones(ledger.size("patch_embed.proj.weight", 4)[0]))
        ledger.fold("the encoder's final norm, which the head does not read, is one")
    indices, depth = (
        (model.get("backbone") or {}).get("out_indices", -1),
        len(ledger.names(r"blocks\.\d+\.norm1\.weight")),
    )
    if several or indices == -1:
        return
    chosen = indices if isinstance(indices, int) else indices[(model.get("decode_head") or {}).get("in_index", -1)]
    if chosen not in (-1, depth - 1):
        raise UserError(f"{ledger.path}: the head reads block {chosen + 1}; expected the last, {depth}")


def _facts(source: Source, model: Mapping[str, Any], config: Mapping[str, Any]) -> Facts:
    path = source.path
    backbone: Mapping[str, Any] = model.get("backbone") or {}
    ours = {"width": "embed_dims", "depth": "num_layers", "patch": "patch_size"}
    processor = model.get("data_preprocessor") or config.get("data_preprocessor") or config.get("img_norm_cfg") or {}
    norm = backbone.get("norm_cfg") or {}
    return Facts(
        heads=backbone.get("num_heads"),
        image=sides(backbone.get("img_size"), f"{path}: backbone.img_size"),
        norm_eps=norm.get("eps", 1e-5 if backbone else 1e-6),
        placed="all",
        activation="gelu",
        normalization=normalization_of(processor.get("mean"), processor.get("std"), str(path)),
        declared={o: (f"backbone.{t}", backbone[t]) for o, t in ours.items() if isinstance(backbone.get(t), int)},
    )
