# SPDX-License-Identifier: Apache-2.0
"""Translate a plain ViT encoder in timm's names into raycomp's, by exact rewrites only.

Readers of other sources rename their tensors to timm's first. Rewritten are: LayerScale (Touvron et al.,
"Going deeper with Image Transformers", ICCV 2021) into the linear map before it; q, k and v into one map;
biases that are missing. `positions` has the rest.

Legend: E width, H heads, d head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raycomp.errors import UserError
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.positions import Special, learned, pairs, rotary
from raycomp.models.readers.source import Facts, Given

Encoder = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dimensions:
    width: int
    patch: int
    depth: int
    heads: int
    mlp: int
    activation: str
    norm_eps: float
    qk_norm: bool
    pre_norm: bool


def encoder(ledger: Ledger, facts: Facts, given: Given) -> tuple[dict[str, object], Encoder]:
    """Take an encoder from a ledger.

    Returns:
        Fields of its `ModelShape`, and its tensors by their names in raycomp's encoder.

    Raises:
        UserError: if a tensor is missing or of another size, or contradicts the configuration.
    """
    out: Encoder = {}
    size = _dimensions(ledger, facts, given)
    special = _special(ledger, size.width, out)
    out["patch_embed.proj.weight"] = ledger.take("patch_embed.proj.weight")
    out["patch_embed.proj.bias"] = ledger.bias("patch_embed.proj.bias", size.width)
    if size.pre_norm:
        _norm(ledger, "norm_pre", size.width, out)
    place: dict[str, object] = {"position": "learned"}
    if facts.rope_base is None and "rope.periods" not in ledger:
        out["pos_embed"], image = learned(ledger, special, (size.width, size.patch), facts, given)
    else:
        base, image = rotary(ledger, size.width // size.heads, facts, given)
        place = {"position": "rotary", "rope_base": base}
        out |= pairs(size.heads, size.width // size.heads, size.depth)
    for index in range(size.depth):
        _block(ledger, f"blocks.{index}", size, out)
    if "norm.weight" not in ledger and "fc_norm.weight" in ledger:
        raise UserError(f"{ledger.path}: the encoder has no final norm: fc_norm follows the pooling of a classifier")
    _norm(ledger, "norm", size.width, out)
    fields = {name: getattr(size, name) for name in _Dimensions.__slots__ if name != "mlp"}
    wide = {} if size.mlp == 4 * size.width else {"mlp_width": size.mlp}
    tokens = {"prefix": special.prefix, "registers": special.registers}
    return {**fields, **wide, **tokens, **place, "image": image}, out


def _dimensions(ledger: Ledger, facts: Facts, given: Given) -> _Dimensions:
    path, size = ledger.path, ledger.size("patch_embed.proj.weight", 4)
    if size[1] != 3 or size[2] != size[3]:
        raise UserError(f"{path}: the patch embedding has shape {list(size)}; expected [width, 3, patch, patch]")
    blocks = {int(name.split(".")[1]) for name in ledger.names(r"blocks\.\d+\.")}
    if blocks != set(range(len(blocks))) or not blocks:
        missing = min(set(range(len(blocks) + 1)) - blocks)
        raise UserError(f"{path}: block {missing} of the encoder is missing")
    width, mlp = size[0], ledger.size("blocks.0.mlp.fc2.weight", 2)[1]
    gated = "blocks.0.mlp.gate.weight" in ledger or ledger.size("blocks.0.mlp.fc1.weight", 2)[0] == 2 * mlp
    found = {"width": width, "patch": size[2], "depth": len(blocks), "mlp": mlp}
    for name, (theirs, value) in facts.declared.items():
        if found[name] != value:
            raise UserError(f"{path}: its configuration has {theirs} {value}, its tensors have {name} {found[name]}")
    if facts.norm_eps is None:
        ledger.infer("LayerNorm epsilon 1e-6")
    activation = facts.activation
    if activation is None:
        activation = "swiglu" if gated else "gelu"
        ledger.infer(f"activation {activation}")
    if gated != (activation == "swiglu"):
        kind = "gated MLPs" if gated else "MLPs without a gate"
        raise UserError(f"{path}: {kind} with the activation {activation}; a gate is taken with SiLU alone (SwiGLU)")
    return _Dimensions(
        width=width,
        patch=size[2],
        depth=len(blocks),
        heads=_heads(ledger, width, facts, given),
        mlp=mlp,
        activation=activation,
        norm_eps=facts.norm_eps or 1e-6,
        qk_norm="blocks.0.attn.q_norm.weight" in ledger,
        pre_norm="norm_pre.weight" in ledger,
    )


def _heads(ledger: Ledger, width: int, facts: Facts, given: Given) -> int:
    told = told_heads(ledger, width, facts)
    if told is None and given.heads is None:
        guess = f", {width // 64} if they are 64 wide" if width % 64 == 0 else ""
        raise UserError(f"{ledger.path}: it does not tell its attention heads; give --heads (width {width}{guess})")
    if told is not None and given.heads is not None and told != given.heads:
        raise UserError(f"{ledger.path}: it has {told} attention heads, not {given.heads}")
    heads = told or given.heads or 1
    if width % heads:
        raise UserError(f"{ledger.path}: width {width} is not a multiple of heads {heads}")
    return heads


def told_heads(ledger: Ledger, width: int, facts: Facts) -> int | None:
    """Return the heads that the configuration or the tensors tell; None if neither does."""
    if facts.heads is not None:
        return facts.heads
    if "blocks.0.attn.q_norm.weight" in ledger:
        return width // ledger.size("blocks.0.attn.q_norm.weight", 1)[0]
    if "rope.periods" in ledger:
        return width // (4 * ledger.size("rope.periods", 1)[0])
    return None


def _special(ledger: Ledger, width: int, out: Encoder) -> Special:
    """Take the tokens CLS, DIST and registers."""
    for name in ("cls_token", "dist_token"):
        if (token := ledger.get(name, (1, 1, width))) is not None:
            out[name] = token
    if "dist_token" in out and "cls_token" not in out:
        raise UserError(f"{ledger.path}: it has a DIST token and no CLS token")
    tokens, registers = len(out), 0
    if (held := ledger.get("reg_token")) is not None and held.numel():
        registers = held.numel() // width
        if tuple(held.shape) != (1, registers, width):
            raise UserError(f"{ledger.path}: registers have shape {list(held.shape)}, expected [1, registers, {width}]")
        out["reg_token"] = held
    return Special(tokens + registers, registers)


def _block(ledger: Ledger, block: str, size: _Dimensions, out: Encoder) -> None:
    width, heads, mlp = size.width, size.heads, size.mlp
    for norm in ("norm1", "norm2"):
        _norm(ledger, f"{block}.{norm}", width, out)
    out[f"{block}.attn.qkv.weight"], out[f"{block}.attn.qkv.bias"] = _qkv(ledger, f"{block}.attn", width)
    if size.qk_norm:
        for name in (f"{block}.attn.q_norm", f"{block}.attn.k_norm"):
            _norm(ledger, name, width // heads, out)
            for part in ("weight", "bias"):
                out[f"{name}.{part}"] = out[f"{name}.{part}"].repeat(heads)
    _scaled(ledger, f"{block}.attn.proj", (width, width), (f"{block}.ls1.gamma", f"{block}.gamma_1"), out)
    rows = 2 * mlp if size.activation == "swiglu" else mlp
    if f"{block}.mlp.gate.weight" in ledger:
        _join_gate(ledger, f"{block}.mlp", (mlp, width), out)
    else:
        out[f"{block}.mlp.fc1.weight"] = ledger.take(f"{block}.mlp.fc1.weight", (rows, width))
        out[f"{block}.mlp.fc1.bias"] = ledger.bias(f"{block}.mlp.fc1.bias", rows)
    _scaled(ledger, f"{block}.mlp.fc2", (width, mlp), (f"{block}.ls2.gamma", f"{block}.gamma_2"), out)


def _join_gate(ledger: Ledger, mlp: str, size: tuple[int, int], out: Encoder) -> None:
    """Join the gate and the value of a SwiGLU where the source has them apart."""
    parts = (f"{mlp}.gate", f"{mlp}.fc1")
    out[f"{mlp}.fc1.weight"] = torch.cat([ledger.take(f"{part}.weight", size) for part in parts])
    out[f"{mlp}.fc1.bias"] = torch.cat([ledger.bias(f"{part}.bias", size[0]) for part in parts])
    ledger.fold("gate and value of the MLP are one map")


def _qkv(ledger: Ledger, attn: str, width: int) -> tuple[Tensor, Tensor]:
    """Return weight (3E, E) and bias (3E) of queries, keys and values."""
    if f"{attn}.qkv.weight" in ledger:
        weight = ledger.take(f"{attn}.qkv.weight", (3 * width, width))
        if f"{attn}.q_bias" in ledger:
            parts = [ledger.bias(f"{attn}.{part}_bias", width) for part in "qkv"]
            return weight, torch.cat(parts)
        bias = ledger.bias(f"{attn}.qkv.bias", 3 * width)
        if (mask := ledger.get(f"{attn}.qkv.bias_mask", (3 * width,))) is not None:
            ledger.fold("the mask of key biases is in the biases")
            bias = bias * mask
        return weight, bias
    ledger.fold("q, k and v are one map")
    weights = [ledger.take(f"{attn}.{part}.weight", (width, width)) for part in "qkv"]
    return torch.cat(weights), torch.cat([ledger.bias(f"{attn}.{part}.bias", width) for part in "qkv"])


def _scaled(ledger: Ledger, name: str, size: tuple[int, int], scales: tuple[str, str], out: Encoder) -> None:
    """Take a linear map, times the LayerScale that follows it."""
    weight, bias = ledger.take(f"{name}.weight", size), ledger.bias(f"{name}.bias", size[0])
    for scale in scales:
        if (gamma := ledger.get(scale, (size[0],))) is not None:
            ledger.fold("LayerScale is in attn.proj and mlp.fc2")
            weight, bias = weight * gamma[:, None], bias * gamma
    out[f"{name}.weight"], out[f"{name}.bias"] = weight, bias


def _norm(ledger: Ledger, name: str, width: int, out: Encoder) -> None:
    out[f"{name}.weight"] = ledger.take(f"{name}.weight", (width,))
    out[f"{name}.bias"] = ledger.bias(f"{name}.bias", width)
