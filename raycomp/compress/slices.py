# SPDX-License-Identifier: Apache-2.0
"""Cut weights along their axes: prefixes by strided copies, other units by index.

An index costs a host-to-GPU copy and a gather per axis; prefixes need neither.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from raycomp.compress.saliency import block_widths, turned
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Part:
    """A section of an axis as nested dimensions (sections, heads, units), of each of which a prefix is kept."""

    start: int
    full: tuple[int, ...]
    place: int
    """Start in the cut axis."""
    kept: tuple[int, ...]
    count: int
    """Number of units kept."""


Box = tuple[Part, ...]
"""The parts of an axis, in order."""

Boxes = tuple[Box | None, ...]
"""One box per axis of a tensor; None keeps the full axis."""

Cut = Box | Tensor
"""What to keep along an axis: first units, or an index (n,) int64 on the weight's device."""


def first_units(model: Segmenter, recipe: Recipe) -> dict[str, Box]:
    """Return the first units to keep along every axis of the layout, for a recipe no wider than the model."""
    shape, present = model.shape, model.recipe
    places = [f"block.{index}" for index in range(shape.depth)]
    boxes = {"embed": _plain(present.embed, recipe.embed)}
    if shape.decoder == "mask":
        places += [f"decoder.block.{index}" for index in range(shape.decoder_depth)]
        boxes |= dict.fromkeys(("decoder.embed", "decoder.out"), boxes["embed"])
    for place in places:
        before, after = (block_widths(shape, r, place) for r in (present, recipe))
        (H, QK, V), (heads, qk, v) = ((one.heads, one.qk, one.v) for one in (before, after))
        full, kept = ((H, 2, QK // 2), (heads, 2, qk // 2)) if turned(shape, place) else ((H, QK), (heads, qk))
        queries = _part(0, (2, *full), 0, (2, *kept))  # and keys
        boxes[f"{place}.qkv"] = (queries, _part(2 * H * QK, (H, V), queries.count, (heads, v)))
        boxes[f"{place}.qk"] = (_part(0, full, 0, kept),)
        boxes[f"{place}.pair"] = (_part(0, (H, QK // 2), 0, (heads, qk // 2)),)
        boxes[f"{place}.v"] = (_part(0, (H, V), 0, (heads, v)),)
        boxes[f"{place}.mlp"] = _plain(before.mlp, after.mlp)
        boxes[f"{place}.gated"] = (_part(0, (2, before.mlp), 0, (2, after.mlp)),)
    return boxes


def units_in(box: Box) -> int:
    """Return how many units are kept along an axis."""
    return sum(part.count for part in box)


def cut(weight: Tensor, cuts: Sequence[Cut | None]) -> Tensor:
    """Cut a weight along each axis (None keeps all); the result is contiguous, and gradients flow to the weight.

    Returns a copy, or the weight itself if nothing is cut.
    """
    boxes = tuple(None if one is None or isinstance(one, Tensor) or _keeps_all(one) else one for one in cuts)
    if any(boxes):
        tracked = weight.requires_grad and torch.is_grad_enabled()
        weight = _FirstUnits.apply(weight, boxes) if tracked else _copied(weight, boxes)
    for axis, one in enumerate(cuts):
        if isinstance(one, Tensor):
            weight = weight.index_select(axis, one)
    return weight


class _FirstUnits(torch.autograd.Function):
    """Copy boxes out of a weight; the gradient returns to their places and is 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, boxes: Boxes) -> Tensor:
        ctx.size, ctx.boxes = weight.shape, boxes
        return _copied(weight, boxes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        full = gradient.new_zeros(ctx.size)
        for parts in _combined(ctx.boxes):
            source = _placed(gradient, parts)
            target = _kept_of(full, parts)
            target.copy_(source.view(target.shape))
        return full, None


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
    """Yield every choice of one part per axis."""
    return product(*(box or (None,) for box in boxes))


def _kept_of(full: Tensor, parts: tuple[Part | None, ...]) -> Tensor:
    """Return a view of the kept part of a tensor; an axis with heads or sections is unflattened into them."""
    for axis, part in reversed(list(enumerate(parts))):  # unflattening shifts only the axes after it
        if part is None:
            continue
        if len(part.full) > 1:
            full = full.narrow(axis, part.start, prod(part.full)).unflatten(axis, part.full)
        for inner, (count, size) in enumerate(zip(part.kept, part.full, strict=True)):
            if count != size:
                full = full.narrow(axis + inner, 0, count)
    return full


def _placed(kept: Tensor, parts: tuple[Part | None, ...]) -> Tensor:
    """Return a view of the same units in the cut tensor."""
    for axis, part in enumerate(parts):
        if part is not None and part.count != kept.shape[axis]:
            kept = kept.narrow(axis, part.place, part.count)
    return kept


def _part(start: int, full: tuple[int, ...], place: int, kept: tuple[int, ...]) -> Part:
    return Part(start, full, place, kept, prod(kept))


def _plain(full: int, kept: int) -> Box:
    return (_part(0, (full,), 0, (kept,)),)


def _keeps_all(box: Box) -> bool:
    return all(part.full == part.kept for part in box)
