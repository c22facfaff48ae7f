"""Cut weights along their axes: the first units by strided copies, any others by index.

An index costs a copy from the host to a GPU and a gather for every axis; the first units of all axes need neither.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from raycomp.compress.saliency import attention_widths
from raycomp.flops import decoder_widths
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe
from raycomp.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of an axis, seen as nested dimensions of which the first of each stay: sections, heads, units."""

    start: int
    whole: tuple[int, ...]
    place: int
    """Where it starts once the axis is cut."""
    kept: tuple[int, ...]
    count: int
    """Units that stay."""


Box = tuple[Part, ...]
"""The parts of an axis, in order."""

Boxes = tuple[Box | None, ...]
"""Of every axis of a tensor; None keeps all of it."""

Cut = Box | Tensor
"""What stays along an axis: the first units, or those of an index (n,) int64 on the weight's device."""


def first_units(model: Segmenter, recipe: Recipe) -> dict[str, Box]:
    """For every axis of the layout, the first units that a recipe of at most the model's widths keeps."""
    shape, own = model.shape, model.recipe
    places = [f"block.{index}" for index in range(shape.depth)]
    boxes = {"embed": _plain(own.embed, recipe.embed)}
    if shape.decoder == "mask":
        places += [f"decoder.block.{index}" for index in range(shape.decoder_depth)]
        boxes |= dict.fromkeys(("decoder.embed", "decoder.out"), boxes["embed"])
    for place in places:
        (H, QK, V), (heads, qk, v) = (attention_widths(shape, of, place) for of in (own, recipe))
        queries = _part(0, (2, H, QK), 0, (2, heads, qk))  # and keys
        boxes[f"{place}.qkv"] = (queries, _part(2 * H * QK, (H, V), queries.count, (heads, v)))
        boxes[f"{place}.v"] = (_part(0, (H, V), 0, (heads, v)),)
        boxes[f"{place}.mlp"] = _plain(*(_mlp_width(shape, of, place) for of in (own, recipe)))
    return boxes


def units_in(box: Box) -> int:
    """How many units stay along an axis."""
    return sum(part.count for part in box)


def cut(weight: Tensor, cuts: Sequence[Cut | None]) -> Tensor:
    """The units of a weight that stay along each axis (None: all), contiguous; gradients flow to the weight.

    A weight that nothing cuts is returned itself, else a copy.
    """
    boxes = tuple(None if one is None or isinstance(one, Tensor) or _everything(one) else one for one in cuts)
    if any(boxes):
        tracked = weight.requires_grad and torch.is_grad_enabled()
        weight = _FirstUnits.apply(weight, boxes) if tracked else _copied(weight, boxes)
    for axis, one in enumerate(cuts):
        if isinstance(one, Tensor):
            weight = weight.index_select(axis, one)
    return weight


class _FirstUnits(torch.autograd.Function):
    """Copies boxes out of a weight; the gradient goes back to their places, and is 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, boxes: Boxes) -> Tensor:
        ctx.size, ctx.boxes = weight.shape, boxes
        return _copied(weight, boxes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        whole = gradient.new_zeros(ctx.size)
        for parts in _combined(ctx.boxes):
            source = _placed(gradient, parts)
            target = _kept_of(whole, parts)
            target.copy_(source.view(target.shape))
        return whole, None


def _copied(weight: Tensor, boxes: Boxes) -> Tensor:
    sizes = [n if box is None else units_in(box) for n, box in zip(weight.shape, boxes, strict=True)]
    first, *others = _combined(boxes)
    if not others:
        return _kept_of(weight, first).clone(memory_format=torch.contiguous_format).view(sizes)
    kept = weight.new_empty(sizes)
    for parts in (first, *others):
        source = _kept_of(weight, parts)
        _placed(kept, parts).view(source.shape).copy_(source)
    return kept


def _combined(boxes: Boxes) -> Iterator[tuple[Part | None, ...]]:
    """Every choice of one part of each axis."""
    return product(*(box or (None,) for box in boxes))


def _kept_of(whole: Tensor, parts: tuple[Part | None, ...]) -> Tensor:
    """A view of what stays of a tensor; an axis with heads or sections is unfolded into them."""
    for axis, part in reversed(list(enumerate(parts))):  # what unfolds moves only the axes after it
        if part is None:
            continue
        if len(part.whole) > 1:
            whole = whole.narrow(axis, part.start, prod(part.whole)).unflatten(axis, part.whole)
        for inner, (count, of) in enumerate(zip(part.kept, part.whole, strict=True)):
            if count != of:
                whole = whole.narrow(axis + inner, 0, count)
    return whole


def _placed(kept: Tensor, parts: tuple[Part | None, ...]) -> Tensor:
    """A view of where the same units lie in the cut tensor."""
    for axis, part in enumerate(parts):
        if part is not None and part.count != kept.shape[axis]:
            kept = kept.narrow(axis, part.place, part.count)
    return kept


def _part(start: int, whole: tuple[int, ...], place: int, kept: tuple[int, ...]) -> Part:
    return Part(start, whole, place, kept, prod(kept))


def _plain(whole: int, kept: int) -> Box:
    return (_part(0, (whole,), 0, (kept,)),)


def _everything(box: Box) -> bool:
    return all(part.whole == part.kept for part in box)


def _mlp_width(shape: ModelShape, recipe: Recipe, place: str) -> int:
    if place.startswith("decoder."):
        return decoder_widths(shape, recipe.embed).mlp
    return recipe.blocks[int(place.rpartition(".")[2])].mlp
