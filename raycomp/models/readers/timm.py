# SPDX-License-Identifier: Apache-2.0
"""Read the files of timm: ViT, DeiT, DeiT III, DINOv2, CLIP and SigLIP encoders, and DINOv3.

A file has only tensors. Heads, epsilon and activation come from the model that timm builds by name; the name is in
`config.json`, or is that of the file (`vit_tiny_patch16_224.safetensors`).
"""

import re
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import nn

from raycomp.errors import UserError, first_line, logger
from raycomp.models._timm import create_model, is_model, timm_version
from raycomp.models.readers.assemble import translated
from raycomp.models.readers.heads import Head, linear_head
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.source import DINOV3_ROPE_BASE, Facts, Forward, Source, Translation, normalization_of

FAMILY = "timm ViT"
_CLASSIFIER = {r"head(_dist)?\.(weight|bias)": "image classifier"}
_WRAPPERS = re.compile(r"^((module|model|network)\.)+")
_LINEAR = ("decode_head.conv_seg", "decoder.head", "seg_head", "linear_head", "classifier", "head")


def matches(source: Source) -> bool:
    """Return True for a ViT with timm's tensor names, also inside a module such as `backbone`."""
    return prefix_of(source.tensors) is not None


def _plain(name: str) -> str:
    """Return the name of a tensor; the two maps of a SwiGLU are named as in other readers."""
    return name.replace(".mlp.fc1_g.", ".mlp.gate.").replace(".mlp.fc1_x.", ".mlp.fc1.")


def is_wrapped(prefix: str) -> bool:
    """Return True if the encoder is part of a larger model, which may have a segmentation head."""
    return bool(_WRAPPERS.sub("", prefix))


def without(prefix: str, name: str) -> str:
    """Return a tensor name without the encoder's prefix, or without the wrappers before any other name."""
    return name.removeprefix(prefix) if name.startswith(prefix) else _WRAPPERS.sub("", name)


def prefix_of(keys: Collection[str]) -> str | None:
    """Return the prefix of the encoder's tensor names; None without an encoder."""
    matched = (re.fullmatch(r"((?:\w+\.)*?)blocks\.\d+\.attn\.qkv\.weight", key) for key in keys)
    return next((match[1] for match in matched if match is not None), None)


def read(source: Source) -> Translation:
    """Translate an encoder, and its linear head if it has one.

    Raises:
        UserError: naming the tensor or the setting that does not fit.
    """
    prefix = prefix_of(source.tensors) or ""
    wrapped = is_wrapped(prefix)
    ledger = Ledger(source.tensors, source.path, lambda name: _plain(without(prefix, name)))
    ledger.leave({} if wrapped else _CLASSIFIER)
    name = _model_name(source)
    facts = Facts() if name is None else _facts(source, name)
    if name is None and "pos_embed" not in ledger and "blocks.0.gamma_1" in ledger:
        ledger.infer("DINOv3's rotary positions, epsilon 1e-5, and ImageNet's mean and std")
        facts = Facts(rope_base=DINOV3_ROPE_BASE, norm_eps=1e-5, normalization="deit")
    original = None if name is None or wrapped else partial(_original, name, source)
    return translated(source, ledger, facts, FAMILY, linear_beside if wrapped else _none, original)


def _none(_ledger: Ledger, _width: int) -> Head | None:
    return None


def linear_beside(ledger: Ledger, width: int) -> Head | None:
    """Take the linear head beside a wrapped encoder, by one of its usual names."""
    return linear_head(ledger, _LINEAR, width, "decode_head.bn")


def _model_name(source: Source) -> str | None:
    """Return timm's name of the model; None if nothing states it."""
    stem = source.path.stem
    stated = source.user.name or source.config.get("architecture") or (stem if is_model(stem) else None)
    if stated is not None and not is_model(str(stated).split(".")[0]):
        raise UserError(f"{source.path}: timm {timm_version} has no model {stated!r}")
    return None if stated is None else str(stated)


def _built(name: str, source: Source) -> nn.Module:
    arguments = source.config.get("model_args")
    try:
        return create_model(name, pretrained=False, **(arguments if isinstance(arguments, dict) else {}))
    except Exception as error:  # an unknown name or argument; timm raises many types
        logger.debug("building %s", name, exc_info=True)
        raise UserError(f"{source.path}: timm cannot build {name!r} ({first_line(error)})") from None


def _facts(source: Source, name: str) -> Facts:
    """Return the facts of the model that timm builds by this name."""
    with torch.device("meta"):
        model = _built(name, source)
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not hasattr(blocks[0], "attn"):
        raise UserError(f"{source.path}: {name} is not a plain ViT")
    block: Any = blocks[0]
    saved = source.config.get("pretrained_cfg")
    pretrained = saved if isinstance(saved, dict) else getattr(model, "pretrained_cfg", {})
    rope: Any = getattr(model, "rope", None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if rope is not None and type(rope).__name__ != "RotaryEmbeddingDinoV3":
        raise UserError(f"{source.path}: {name} has rotary positions other than DINOv3's; only those are supported")
    return Facts(
        heads=block.attn.num_heads,
        image=(grid[0] * patch[0], grid[1] * patch[1]) if grid and patch else None,
        image_certain=False,  # timm resamples positions for other sizes
        positioned="none" if getattr(model, "no_embed_class", False) else "all",
        norm_eps=block.norm1.eps,
        activation=_activation(source, name, block.mlp.act),
        normalization=normalization_of(pretrained.get("mean"), pretrained.get("std"), str(source.path)),
        rope_base=None if rope is None else rope.temperature,
    )


def _activation(source: Source, name: str, act: nn.Module) -> str:
    kinds = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "swiglu"}
    kind = type(act).__name__
    if kind not in kinds:
        raise UserError(f"{source.path}: {name} has activation {kind}; supported: {', '.join(kinds)}")
    return "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else kinds[kind]


def _original(name: str, source: Source) -> Forward:
    """Build the model with timm; its features include the final norm."""
    model: Any = _built(name, source)
    model.load_state_dict({_WRAPPERS.sub("", key): tensor for key, tensor in source.tensors.items()}, strict=False)
    return model.eval().forward_features
