# SPDX-License-Identifier: Apache-2.0
"""Physical pruning: keep the most salient units and slice the weights into a smaller dense model.

Structure after NViT (REFERENCE 7): one embedding width; per block the heads, the QK and V widths
per head and the MLP width. The decoder follows the embedding width.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from raycomp.compress.layout import axes
from raycomp.compress.saliency import Saliency, block_widths, turned
from raycomp.compress.slices import Cut, cut, first_units, units_in
from raycomp.devices import moved
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import BlockWidths, Recipe, check_fits
from raycomp.shape import ModelShape


def prune(model: Segmenter, recipe: Recipe, saliency: Saliency | None) -> Segmenter:
    """Slice a model to the recipe's widths; the caller sets up merging.

    Args:
        model: dense or already pruned.
        saliency: scores of the model's units; None keeps the first units, the most salient in an elastic model.

    Raises:
        UserError: if a width exceeds that of the dense model.
    """
    check_fits(model.shape, recipe)
    with torch.device("meta"):
        pruned = Segmenter(model.shape, recipe)
    names = pruned.state_dict().keys()
    with torch.no_grad():
        if saliency is None:
            weights = cut_along(model, names, first_units(model, recipe))
        else:
            weights = sliced(model, names, kept_units(model.shape, recipe, saliency))
    pruned.load_state_dict({name: weight.detach() for name, weight in weights.items()}, assign=True)
    return pruned.eval()


def sliced(model: Segmenter, names: Collection[str], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors `names` of a model with only the units `kept`, in that order; gradients flow to the model.

    Args:
        kept: see `kept_units`; on the CPU, copied to the model's device at once.
    """
    full = first_units(model, model.recipe)
    picked = {name: units for name, units in kept.items() if not _keeps_all(units, units_in(full[name]))}
    return cut_along(model, names, moved(picked, model.device))


def cut_along(model: Segmenter, names: Collection[str], cuts: Mapping[str, Cut]) -> dict[str, Tensor]:
    """Return the tensors `names` of a model, cut along the axes in `cuts`; other axes stay complete.

    Args:
        names: tensors of the narrower model, which lacks those of dropped sublayers.
    """
    return {
        name: cut(tensor, [cuts.get(unit) if unit else None for unit in units])
        for name, tensor, units in axes(model)
        if name in names
    }


def _keeps_all(kept: Tensor, count: int) -> bool:
    return len(kept) == count and torch.equal(kept, torch.arange(count))


def kept_units(shape: ModelShape, recipe: Recipe, saliency: Saliency, ranked: bool = False) -> dict[str, Tensor]:
    """Return the indices to keep along every axis of the layout: ascending, or most salient first if `ranked`.

    A sublayer that the recipe drops has none.
    """
    kept = {"embed": _top(saliency["embed"], recipe.embed, ranked)}
    places = [f"block.{index}" for index in range(shape.depth)]
    if shape.decoder == "mask":
        places += [f"decoder.block.{index}" for index in range(shape.decoder_depth)]
        for name in ("decoder.embed", "decoder.out"):
            kept[name] = _top(saliency[name], recipe.embed, ranked)
    for place in places:
        widths = block_widths(shape, recipe, place)
        if widths.heads:
            kept |= _kept_in_attention(saliency, place, widths, ranked, turned(shape, place))
        if widths.mlp:
            hidden = _top(saliency[f"{place}.mlp"], widths.mlp, ranked)
            gated = torch.cat([hidden, hidden + saliency[f"{place}.mlp"].shape[0]])
            kept |= {f"{place}.mlp": hidden, f"{place}.gated": gated}
    return kept


def kept_in_heads(
    saliency: Saliency, place: str, widths: BlockWidths, ranked: bool = False, paired: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices of the heads to keep (heads,), and of QK and V units in each of them (heads, width).

    Args:
        paired: whether QK units j and j + width/2 are kept or cut together; see `turned`.
    """
    head = _top(saliency[f"{place}.head"], widths.heads, ranked)
    in_qk, scores = saliency[f"{place}.qk"][head], saliency[f"{place}.v"][head]
    if not paired:
        return head, _top(in_qk, widths.qk, ranked), _top(scores, widths.v, ranked)
    half = in_qk.shape[1] // 2
    pair = _top(in_qk[:, :half] + in_qk[:, half:], widths.qk // 2, ranked)
    return head, torch.cat([pair, pair + half], dim=1), _top(scores, widths.v, ranked)


def _kept_in_attention(
    saliency: Saliency, place: str, widths: BlockWidths, ranked: bool, paired: bool
) -> dict[str, Tensor]:
    (all_heads, qk_width), (_, v_width) = saliency[f"{place}.qk"].shape, saliency[f"{place}.v"].shape
    head, inside_qk, inside_v = kept_in_heads(saliency, place, widths, ranked, paired)
    in_qk, in_v = _rows(head, inside_qk, qk_width), _rows(head, inside_v, v_width)
    section = all_heads * qk_width  # rows of q, then of k, then of v
    return {
        f"{place}.qkv": torch.cat([in_qk, in_qk + section, in_v + 2 * section]),
        f"{place}.qk": in_qk,
        f"{place}.pair": _rows(head, inside_qk[:, : inside_qk.shape[1] // 2], qk_width // 2),
        f"{place}.v": in_v,
    }


def _rows(head: Tensor, inside: Tensor, width: int) -> Tensor:
    """Return the rows of units `inside` (heads kept, units kept) of each kept head."""
    return (head[:, None] * width + inside).flatten()


def _top(scores: Tensor, count: int, ranked: bool) -> Tensor:
    """Return the indices of the highest scores along the last axis, ascending or best first; ties: lower index."""
    order = scores.argsort(dim=-1, descending=True, stable=True)[..., :count]
    return order if ranked else order.sort(dim=-1).values
