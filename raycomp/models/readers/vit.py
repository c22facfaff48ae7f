# SPDX-License-Identifier: Apache-2.0
"""Translate a plain ViT encoder with timm's tensor names, by exact rewrites only.

Readers of other sources first rename their tensors to timm's names. LayerScale (Touvron et al., "Going deeper with
Image Transformers", ICCV 2021) is folded into the linear map before it; q, k and v become one map; missing biases
become zero. `positions` translates the positions.

Legend: E width, H heads, d head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raycomp.errors import UserError
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.positions import Special, learned, pairs, rotary
from raycomp.models.readers.source import Facts, UserFacts

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


def encoder(ledger: Ledger, facts: Facts, user: UserFacts) -> tuple[dict[str, object], Encoder]:
    """Take an encoder from a ledger.

    Returns:
        Its `ModelShape` fields, and its tensors by their names in `Encoder`.

    Raises:
        UserError: if a tensor is missing, has another size, or contradicts the configuration.
    """
    out: Encoder = {}
    size = _dimensions(ledger, facts, user)
    special = _special(ledger, size.width, out)
    out["patch_embed.proj.weight"] = ledger.take("patch_embed.proj.weight")
    out["patch_embed.proj.bias"] = ledger.bias("patch_embed.proj.bias", size.width)
    if size.pre_norm:
        _norm(ledger, "norm_pre", size.width, out)
    position: dict[str, object] = {"position": "learned"}
    if facts.rope_base is None and "rope.periods" not in ledger:
        out["pos_embed"], image = learned(ledger, special, (size.width, size.patch), facts, user)
    else:
        base, image = rotary(ledger, size.width // size.heads, facts, user)
        position = {"position": "rotary", "rope_base": base}
        out |= pairs(size.heads, size.width // size.heads, size.depth)
    for index in range(size.depth):
        _block(ledger, f"blocks.{index}", size, out)
    if "norm.weight" not in ledger and "fc_norm.weight" in ledger:
        raise UserError(f"{ledger.path}: the encoder has no final norm: 'fc_norm' belongs to a pooled classifier")
    _norm(ledger, "norm", size.width, out)
    fields = {name: getattr(size, name) for name in _Dimensions.__slots__ if name != "mlp"}
    mlp_width = {} if size.mlp == 4 * size.width else {"mlp_width": size.mlp}
    tokens = {"prefix": special.prefix, "registers": special.registers}
    return {**fields, **mlp_width, **tokens, **position, "image": image}, out


def _dimensions(ledger: Ledger, facts: Facts, user: UserFacts) -> _Dimensions:
    path, size = ledger.path, ledger.size("patch_embed.proj.weight", 4)
    if size[1] != 3 or size[2] != size[3]:
        name = ledger.name_in_file("patch_embed.proj.weight")
        raise UserError(f"{path}: tensor {name!r} has shape {list(size)}; expected [width, 3, patch, patch]")
    blocks = {int(name.split(".")[1]) for name in ledger.names(r"blocks\.\d+\.")}
    if blocks != set(range(len(blocks))) or not blocks:
        missing = min(set(range(len(blocks) + 1)) - blocks)
        raise UserError(f"{path}: block {missing} of the encoder is missing")
    width, mlp = size[0], ledger.size("blocks.0.mlp.fc2.weight", 2)[1]
    gated = "blocks.0.mlp.gate.weight" in ledger or ledger.size("blocks.0.mlp.fc1.weight", 2)[0] == 2 * mlp
    actual = {"width": width, "patch": size[2], "depth": len(blocks), "mlp": mlp}
    for name, (key, value) in facts.declared.items():
        if actual[name] != value:
            raise UserError(f"{path}: its configuration has {key} {value}, its tensors have {name} {actual[name]}")
    if facts.norm_eps is None:
        ledger.infer("LayerNorm epsilon 1e-6")
    activation = facts.activation
    if activation is None:
        activation = "swiglu" if gated else "gelu"
        ledger.infer(f"activation {activation}")
    if gated != (activation == "swiglu"):
        kind = "a gated MLP" if gated else "an MLP without a gate"
        raise UserError(f"{path}: {kind} has activation {activation}; expected a gate only with SiLU (SwiGLU)")
    return _Dimensions(
        width=width,
        patch=size[2],
        depth=len(blocks),
        heads=_heads(ledger, width, facts, user),
        mlp=mlp,
        activation=activation,
        norm_eps=facts.norm_eps or 1e-6,
        qk_norm="blocks.0.attn.q_norm.weight" in ledger,
        pre_norm="norm_pre.weight" in ledger,
    )


def _heads(ledger: Ledger, width: int, facts: Facts, user: UserFacts) -> int:
    stated = stated_heads(ledger, width, facts)
    if stated is None and user.heads is None:
        usual = f", usually {width // 64}" if width % 64 == 0 else ""
        raise UserError(
            f"{ledger.path}: does not state its number of attention heads; give --heads (width {width}{usual})"
        )
    if stated is not None and user.heads is not None and stated != user.heads:
        raise UserError(f"{ledger.path}: it has {stated} attention heads, not {user.heads}")
    heads = stated or user.heads or 1
    if width % heads:
        raise UserError(f"{ledger.path}: width {width} is not a multiple of heads {heads}")
    return heads


def stated_heads(ledger: Ledger, width: int, facts: Facts) -> int | None:
    """Return the number of heads that the configuration or the tensors state; None if neither does."""
    if facts.heads is not None:
        return facts.heads
    if "blocks.0.attn.q_norm.weight" in ledger:
        return width // ledger.size("blocks.0.attn.q_norm.weight", 1)[0]
    if "rope.periods" in ledger:
        return width // (4 * ledger.size("rope.periods", 1)[0])
    return None


def _special(ledger: Ledger, width: int, out: Encoder) -> Special:
    """Take the CLS, DIST and register tokens."""
    for name in ("cls_token", "dist_token"):
        if (token := ledger.get(name, (1, 1, width))) is not None:
            out[name] = token
    if "dist_token" in out and "cls_token" not in out:
        raise UserError(f"{ledger.path}: tensor 'dist_token' without 'cls_token'; expected both or CLS only")
    tokens, registers = len(out), 0
    if (token := ledger.get("reg_token")) is not None and token.numel():
        registers = token.numel() // width
        if tuple(token.shape) != (1, registers, width):
            raise UserError(
                f"{ledger.path}: registers have shape {list(token.shape)}, expected [1, registers, {width}]"
            )
        out["reg_token"] = token
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
    """Join the gate and the value of a SwiGLU, which the source stores apart."""
    parts = (f"{mlp}.gate", f"{mlp}.fc1")
    out[f"{mlp}.fc1.weight"] = torch.cat([ledger.take(f"{part}.weight", size) for part in parts])
    out[f"{mlp}.fc1.bias"] = torch.cat([ledger.bias(f"{part}.bias", size[0]) for part in parts])
    ledger.fold("gate and value of the MLP, into one map")


def _qkv(ledger: Ledger, attn: str, width: int) -> tuple[Tensor, Tensor]:
    """Return weight (3E, E) and bias (3E) of queries, keys and values."""
    if f"{attn}.qkv.weight" in ledger:
        weight = ledger.take(f"{attn}.qkv.weight", (3 * width, width))
        if f"{attn}.q_bias" in ledger:
            parts = [ledger.bias(f"{attn}.{part}_bias", width) for part in "qkv"]
            return weight, torch.cat(parts)
        bias = ledger.bias(f"{attn}.qkv.bias", 3 * width)
        if (mask := ledger.get(f"{attn}.qkv.bias_mask", (3 * width,))) is not None:
            ledger.fold("the mask of key biases, into the biases")
            bias = bias * mask
        return weight, bias
    ledger.fold("q, k and v, into one map")
    weights = [ledger.take(f"{attn}.{part}.weight", (width, width)) for part in "qkv"]
    return torch.cat(weights), torch.cat([ledger.bias(f"{attn}.{part}.bias", width) for part in "qkv"])


def _scaled(ledger: Ledger, name: str, size: tuple[int, int], scales: tuple[str, str], out: Encoder) -> None:
    """Take a linear map, and fold in the LayerScale after it, if any."""
    weight, bias = ledger.take(f"{name}.weight", size), ledger.bias(f"{name}.bias", size[0])
    for scale in scales:
        if (gamma := ledger.get(scale, (size[0],))) is not None:
            ledger.fold("LayerScale, into attn.proj and mlp.fc2")
            weight, bias = weight * gamma[:, None], bias * gamma
    out[f"{name}.weight"], out[f"{name}.bias"] = weight, bias


def _norm(ledger: Ledger, name: str, width: int, out: Encoder) -> None:
    out[f"{name}.weight"] = ledger.take(f"{name}.weight", (width,))
    out[f"{name}.bias"] = ledger.bias(f"{name}.bias", width)
