# SPDX-License-Identifier: Apache-2.0
"""Translate linear heads and Segmenter's mask transformer into raycomp's, by exact rewrites only."""

from dataclasses import dataclass

from torch import Tensor

from raycomp.errors import UserError
from raycomp.models.readers.ledger import Ledger

_BATCH_EPS = 1e-5  # torch's default, which mmsegmentation and transformers keep


@dataclass(frozen=True, slots=True)
class Head:
    """A segmentation head: fields of its `ModelShape`, and its tensors by their names in `Segmenter`."""

    fields: dict[str, object]
    tensors: dict[str, Tensor]


def batch_norm(ledger: Ledger, name: str, width: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch norm in evaluation.

    Raises:
        UserError: if a tensor of it is missing, or of another width.
    """
    weight, bias, mean, variance = (ledger.take(f"{name}.{part}", (width,)) for part in _STATISTICS)
    ledger.leave({rf"{name}\.num_batches_tracked": "counter of batch norm, unused in evaluation"})
    scale = weight.double() / (variance.double() + _BATCH_EPS).sqrt()
    return scale, bias.double() - mean.double() * scale


_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def convolution(ledger: Ledger, out: dict[str, Tensor], ours: str, theirs: str, norm: str | None = None) -> None:
    """Take a convolution, with the batch norm after it where there is one, as `decoder.` and our name.

    Raises:
        UserError: if it is missing, or no convolution.
    """
    ledger.size(f"{theirs}.weight", 4)
    weight = ledger.take(f"{theirs}.weight").double()
    bias = ledger.bias(f"{theirs}.bias", weight.shape[0]).double()  # of a transposed one both sides are equal
    if norm is not None and f"{norm}.running_mean" in ledger:
        scale, shift = batch_norm(ledger, norm, len(weight))
        weight, bias = weight * scale[:, None, None, None], bias * scale + shift
        ledger.fold("batch norm is in the convolution before it")
    out[f"decoder.{ours}.weight"], out[f"decoder.{ours}.bias"] = weight.float(), bias.float()


def linear_head(ledger: Ledger, name: str, width: int, norm: str | None = None) -> Head:
    """Take a linear map, or 1x1 convolution, from features to classes; `norm` is a batch norm before it.

    Raises:
        UserError: if it reads other features than those of the last block.
    """
    size = ledger.size(f"{name}.weight")
    if len(size) not in (2, 4) or size[1] != width or any(side != 1 for side in size[2:]):
        raise UserError(
            f"{ledger.path}: tensor '{name}.weight' has shape {list(size)}; a linear head reads the {width} features "
            "of the last block's patches"
        )
    weight = ledger.take(f"{name}.weight").reshape(size[0], width).double()
    bias = ledger.bias(f"{name}.bias", size[0]).double()
    if len(size) == 4:
        ledger.fold("the 1x1 convolution of the head is a linear map")
    if norm is not None:
        scale, shift = batch_norm(ledger, norm, width)
        weight, bias = weight * scale, bias + weight @ shift
        ledger.fold("batch norm is in the head")
    held = {"decoder.head.weight": weight.float(), "decoder.head.bias": bias.float()}
    return Head({"classes": size[0], "decoder": "linear", "decoder_depth": 0}, held)


def mask_head(ledger: Ledger, width: int, heads: int | None) -> Head:
    """Take mmsegmentation's mask transformer, whose layers have timm's names already.

    Args:
        heads: Attention heads of its layers; None if the file does not tell.

    Raises:
        UserError: if its width or heads are not those of Segmenter.
    """
    name, path = "decode_head", ledger.path
    size = ledger.size(f"{name}.cls_emb")
    classes, ours = size[-2], max(1, width // 64)
    if size[-1] != width:
        raise UserError(f"{path}: the mask transformer is {size[-1]} wide; expected the encoder's width, {width}")
    if heads is not None and heads != ours:
        raise UserError(f"{path}: the mask transformer has {heads} attention heads; expected {ours}, 64 wide each")
    if heads is None:
        ledger.infer(f"{ours} attention heads in the mask transformer")
    blocks = {int(key.split(".")[2]) for key in ledger.names(rf"{name}\.blocks\.\d+\.")}
    out = {"decoder.cls_emb": ledger.take(f"{name}.cls_emb")}
    for ours_, theirs in (("proj_patch", "patch_proj"), ("proj_classes", "classes_proj")):
        out[f"decoder.{ours_}"] = ledger.take(f"{name}.{theirs}.weight", (width, width)).T.contiguous()
    ledger.fold("projections of the mask transformer are transposed")
    parts = [("proj_dec", f"{name}.dec_proj", width), ("decoder_norm", f"{name}.decoder_norm", width)]
    parts += [("mask_norm", f"{name}.mask_norm", classes)]
    for index in sorted(blocks):
        rows = {"norm1": width, "attn.qkv": 3 * width, "attn.proj": width, "norm2": width, "mlp.fc1": 4 * width}
        rows["mlp.fc2"] = width
        parts += [(f"blocks.{index}.{p}", f"{name}.blocks.{index}.{p}", count) for p, count in rows.items()]
    for target, theirs, count in parts:
        out[f"decoder.{target}.weight"] = ledger.take(f"{theirs}.weight")
        out[f"decoder.{target}.bias"] = ledger.bias(f"{theirs}.bias", count)
    return Head({"classes": classes, "decoder": "mask", "decoder_depth": len(blocks)}, out)
