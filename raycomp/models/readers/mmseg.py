# SPDX-License-Identifier: Apache-2.0
"""Read mmsegmentation's models on its VisionTransformer; `heads` and `mm_heads` translate their heads.

Settings come from the configuration in the checkpoint or beside it (`mmconfig`). A batch norm before `conv_seg`, as in
DINOv2's linear heads, is folded into it.
"""

import re
from functools import partial

import torch

from raycomp.errors import UserError, nearest
from raycomp.models.readers.assemble import translated
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.mm_heads import reads_several, take_head
from raycomp.models.readers.mmconfig import config_of
from raycomp.models.readers.settings import MmBackbone, MmConfig, MmHead, MmModel, MmNorm, both, checked
from raycomp.models.readers.source import Facts, Source, Translation, normalization_of

_HEADS = ("SegmenterMaskTransformerHead", "FCNHead", "BNHead", "DPTHead", "UPerHead", "SETRUPHead")
_LAYER = (
    (r"ln([12])\.", r"norm\1."),
    (r"attn\.attn\.in_proj_", "attn.qkv."),
    (r"attn\.attn\.out_proj\.", "attn.proj."),
    (r"ffn\.layers\.0\.0\.", "mlp.fc1."),
    (r"ffn\.layers\.1\.", "mlp.fc2."),
)


def layer_name(name: str) -> str:
    """Return timm's name for a tensor of a transformer layer."""
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
    """Return True for mmsegmentation's VisionTransformer."""
    return any(key.endswith("layers.0.attn.attn.in_proj_weight") and "backbone." in key for key in source.tensors)


def read(source: Source) -> Translation:
    """Translate a model.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    ledger = Ledger(source.tensors, source.path, _renamed)
    config = checked(MmConfig, config_of(source), f"{source.path}: its configuration")
    model = config.model
    if (kind := model.decode_head.type) is not None and kind not in _HEADS:
        raise UserError(f"{source.path}: the configuration has decode_head.type {kind!r}: {nearest(kind, _HEADS)}")
    if model.backbone is None:
        ledger.infer("settings of mmsegmentation's Segmenter; no configuration is in the file or beside it")
    facts = _facts(source, config)
    _place_norm(ledger, model, facts)
    _check_last(ledger, model)
    return translated(source, ledger, facts, f"{kind or 'ViT'} of mmsegmentation", partial(take_head, model))


def _place_norm(ledger: Ledger, model: MmModel, facts: Facts) -> None:
    """Give the encoder its final norm: that of SETR's head, or an unused one if the head reads several blocks.

    Raises:
        UserError: if the epsilon of the head's norm differs from the encoder's.
    """
    if "norm.weight" in ledger:
        return
    if "decode_head.norm.weight" in ledger:
        eps = (model.decode_head.norm_layer or MmNorm()).eps or 1e-6
        if eps != facts.norm_eps:
            raise UserError(
                f"{ledger.path}: the head's norm has epsilon {eps}, the encoder {facts.norm_eps}; expected equal ones"
            )
        ledger.rename("decode_head.norm.", "norm.")
        ledger.fold("the head's norm becomes the encoder's final norm")
    elif reads_several(ledger):
        ledger.add("norm.weight", torch.ones(ledger.size("patch_embed.proj.weight", 4)[0]))
        ledger.fold("the encoder's final norm has weight 1; the head does not read it")


def _check_last(ledger: Ledger, model: MmModel) -> None:
    """Check that a head that reads one block reads the last."""
    indices, order = (model.backbone or MmBackbone()).out_indices, model.decode_head.in_index
    depth = len(ledger.names(r"blocks\.\d+\.norm1\.weight"))
    block = indices if isinstance(indices, int) else -1
    if isinstance(indices, list) and isinstance(order, int) and -len(indices) <= order < len(indices):
        block = indices[order]
    if not reads_several(ledger) and block not in (-1, depth - 1):
        raise UserError(f"{ledger.path}: the head reads block {block + 1}; expected the last, {depth}")


def _facts(source: Source, config: MmConfig) -> Facts:
    path, backbone = source.path, config.model.backbone or MmBackbone()
    if (act := (backbone.act_cfg or MmHead()).type) not in (None, "GELU"):
        raise UserError(f"{path}: the configuration has backbone.act_cfg.type {act!r}; expected 'GELU'")
    keys = {"width": "embed_dims", "depth": "num_layers", "patch": "patch_size"}
    declared = {field: (f"backbone.{key}", getattr(backbone, key)) for field, key in keys.items()}
    default = 1e-6 if config.model.backbone is None else 1e-5  # Segmenter's configurations; torch's default
    return Facts(
        heads=backbone.num_heads,
        image=both(backbone.img_size),
        norm_eps=(backbone.norm_cfg or MmNorm()).eps or default,
        positioned="all",
        activation="gelu",
        normalization=normalization_of(config.pixels.mean, config.pixels.std, str(path)),
        declared={field: stated for field, stated in declared.items() if stated[1] is not None},
    )
