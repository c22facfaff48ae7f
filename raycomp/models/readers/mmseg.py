# SPDX-License-Identifier: Apache-2.0
"""Read mmsegmentation's Segmenter: its VisionTransformer with SegmenterMaskTransformerHead, or FCNHead as linear head.

Settings come from the configuration in the checkpoint or beside it (`mmconfig`). Batch norm before `conv_seg`, as in
DINOv2's linear heads, is folded.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from raycomp.errors import UserError, nearest
from raycomp.models.readers.assemble import translated
from raycomp.models.readers.heads import Head, linear_head, mask_head
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.mmconfig import config_of
from raycomp.models.readers.source import Facts, Source, Translation, normalization_of, sides

_HEADS = ("SegmenterMaskTransformerHead", "FCNHead", "BNHead")
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
    return translated(source, ledger, facts, "Segmenter of mmsegmentation", partial(_head, head))


def _head(config: Mapping[str, Any], ledger: Ledger, width: int) -> Head | None:
    if "decode_head.cls_emb" in ledger:
        ledger.leave({r"decode_head\.conv_seg\..*": "a layer that the mask transformer does not use"})
        return mask_head(ledger, width, config.get("num_heads"))
    if "decode_head.conv_seg.weight" not in ledger:
        return None
    norm = "decode_head.bn" if "decode_head.bn.running_mean" in ledger else None
    return linear_head(ledger, "decode_head.conv_seg", width, norm)


def _facts(source: Source, model: Mapping[str, Any], config: Mapping[str, Any]) -> Facts:
    path = source.path
    backbone: Mapping[str, Any] = model.get("backbone") or {}
    if backbone and backbone.get("final_norm") is False:
        raise UserError(
            f"{path}: the configuration has backbone.final_norm False; raycomp's heads read normed features"
        )
    if backbone.get("out_indices") not in (None, -1, [-1]) and backbone["out_indices"] != [
        int(backbone.get("num_layers", 12)) - 1
    ]:
        raise UserError(
            f"{path}: the configuration has backbone.out_indices {backbone['out_indices']}; expected the last"
        )
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
