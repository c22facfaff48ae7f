# SPDX-License-Identifier: Apache-2.0
"""Translate linear heads and Segmenter's mask transformer, by exact rewrites only."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from raycomp.errors import UserError
from raycomp.models.readers.ledger import Ledger

_BATCH_EPS = 1e-5  # torch's default, which mmsegmentation and transformers keep


@dataclass(frozen=True, slots=True)
class Head:
    """A translated head: its `ModelShape` fields, and its tensors by their names in `Segmenter`."""

    fields: dict[str, object]
    tensors: dict[str, Tensor]


def batch_norm(ledger: Ledger, name: str, width: int) -> tuple[Tensor, Tensor]:
    """Return the scale and shift of a batch norm in evaluation.

    Raises:
        UserError: if one of its tensors is missing or has another width.
    """
    weight, bias, mean, variance = (ledger.take(f"{name}.{part}", (width,)) for part in _STATISTICS)
    scale = weight.double() / (variance.double() + _BATCH_EPS).sqrt()
    return scale, bias.double() - mean.double() * scale


_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def convolution(ledger: Ledger, out: dict[str, Tensor], target: str, source: str, norm: str | None = None) -> None:
    """Take a convolution and fold in the batch norm after it, if any; store it in `out` as `decoder.TARGET`.

    Raises:
        UserError: if it is missing or not a convolution.
    """
    ledger.size(f"{source}.weight", 4)
    weight = ledger.take(f"{source}.weight").double()
    bias = ledger.bias(f"{source}.bias", weight.shape[0]).double()  # if transposed, it has as many inputs
    if norm is not None and f"{norm}.running_mean" in ledger:
        scale, shift = batch_norm(ledger, norm, len(weight))
        weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        ledger.fold("batch norm, into the convolution before it")
    out[f"decoder.{target}.weight"], out[f"decoder.{target}.bias"] = weight.float(), bias.float()


def split_readout(ledger: Ledger, out: dict[str, Tensor], tap: int, source: str) -> None:
    """Take the readout projection of DPT's tap: its first columns are for patches, the others for the CLS token."""
    weight = ledger.take(f"{source}.weight")
    half = weight.shape[1] // 2
    out[f"decoder.readout.{tap}.patch.weight"] = weight[:, :half].contiguous()
    out[f"decoder.readout.{tap}.cls.weight"] = weight[:, half:].contiguous()
    out[f"decoder.readout.{tap}.patch.bias"] = ledger.take(f"{source}.bias")


def linear_head(ledger: Ledger, names: Sequence[str], width: int, norm: str | None = None) -> Head | None:
    """Take the first linear map or 1x1 convolution of these names; return None if the file has none of them.

    `norm` names the optional batch norm before it, which is folded in.

    Raises:
        UserError: if it reads features other than those of the last block.
    """
    name = next((name for name in names if f"{name}.weight" in ledger), None)
    if name is None:
        return None
    size = ledger.size(f"{name}.weight")
    if len(size) not in (2, 4) or size[1] != width or any(side != 1 for side in size[2:]):
        raise UserError(
            f"{ledger.path}: tensor '{name}.weight' has shape {list(size)}; expected [classes, {width}], with or "
            "without two sides of 1: a linear head reads the last block only"
        )
    weight = ledger.take(f"{name}.weight").reshape(size[0], width).double()
    bias = ledger.bias(f"{name}.bias", size[0]).double()
    if len(size) == 4:
        ledger.fold("the head's 1x1 convolution becomes a linear map")
    if norm is not None and f"{norm}.running_mean" in ledger:
        scale, shift = batch_norm(ledger, norm, width)
        weight, bias = weight * scale, bias + weight @ shift
        ledger.fold("batch norm, into the head")
    tensors = {"decoder.head.weight": weight.float(), "decoder.head.bias": bias.float()}
    return Head({"classes": size[0], "decoder": "linear", "decoder_depth": 0}, tensors)


def mask_head(ledger: Ledger, width: int, heads: int | None) -> Head:
    """Take mmsegmentation's mask transformer, whose layers already have timm's names.

    Args:
        heads: Attention heads of its layers; None if the file does not state them.

    Raises:
        UserError: if its width or number of heads differs from Segmenter's.
    """
    name, path = "decode_head", ledger.path
    size = ledger.size(f"{name}.cls_emb")
    classes, expected = size[-2], max(1, width // 64)
    if size[-1] != width:
        raise UserError(f"{path}: tensor '{name}.cls_emb' is {size[-1]} wide; expected {width}, the encoder's width")
    if heads is not None and heads != expected:
        raise UserError(f"{path}: the mask transformer has {heads} attention heads; expected {expected}, each 64 wide")
    if heads is None:
        ledger.infer(f"{expected} attention heads in the mask transformer")
    blocks = {int(key.split(".")[2]) for key in ledger.names(rf"{name}\.blocks\.\d+\.")}
    out = {"decoder.cls_emb": ledger.take(f"{name}.cls_emb")}
    for target, source in (("proj_patch", "patch_proj"), ("proj_classes", "classes_proj")):
        out[f"decoder.{target}"] = ledger.take(f"{name}.{source}.weight", (width, width)).T.contiguous()
    ledger.fold("projections of the mask transformer are transposed")
    parts = [("proj_dec", f"{name}.dec_proj", width), ("decoder_norm", f"{name}.decoder_norm", width)]
    parts += [("mask_norm", f"{name}.mask_norm", classes)]
    for index in sorted(blocks):
        rows = {"norm1": width, "attn.qkv": 3 * width, "attn.proj": width, "norm2": width, "mlp.fc1": 4 * width}
        rows["mlp.fc2"] = width
        parts += [(f"blocks.{index}.{p}", f"{name}.blocks.{index}.{p}", count) for p, count in rows.items()]
    for target, source, count in parts:
        out[f"decoder.{target}.weight"] = ledger.take(f"{source}.weight")
        out[f"decoder.{target}.bias"] = ledger.bias(f"{source}.bias", count)
    return Head({"classes": classes, "decoder": "mask", "decoder_depth": len(blocks)}, out)
