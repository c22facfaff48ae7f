# SPDX-License-Identifier: Apache-2.0
"""What a search space lets vary in each block: the range of every width, and which blocks are fixed."""

from collections.abc import Iterator

from raycomp.dimension import Dimension
from raycomp.errors import UserError
from raycomp.merging import MergeMethod
from raycomp.recipe import BlockWidths, Recipe, dense
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.shape import ModelShape, Size

BLOCK_WIDTHS = ("heads", "qk", "v", "mlp")
PRECISION = "precision"
"""Dimension of the precision: 0 for float32, 1 for INT8."""


def range_in(config: SpaceConfig, kind: str, block: int) -> WidthRange | None:
    """Return the range of a width in a block, counted from 0; None if it keeps its dense value."""
    found: WidthRange | None = getattr(config, kind)
    if found is None or block in config.fixed.blocks:
        return None
    own = found.blocks.get(block)
    return found if own is None else found.model_copy(update=own.model_dump(exclude_none=True))


def dimensions(shape: ModelShape, config: SpaceConfig, merging: MergeMethod) -> Iterator[Dimension]:
    """Yield the integers of a search space: `embed`, `heads_0`, ..., `merge_7`, `precision` (0 float32, 1 INT8).

    Raises:
        UserError: if a range does not fit the model, or names a block that it does not have.
    """
    _check_blocks(config, shape.depth)
    if config.embed is not None:
        yield from _dimension(shape, "embed", config.embed, shape.width, "embed", "space.embed")
    full = dense(shape).blocks[0]
    for kind in BLOCK_WIDTHS:
        for block in range(shape.depth):
            if (allowed := range_in(config, kind, block)) is None:
                continue
            field = f"space.{kind}" + (f".blocks.{block}" if block in allowed.blocks else "")
            yield from _dimension(shape, kind, allowed, getattr(full, kind), f"{kind}_{block}", field)
    if high := round(config.merge_high / config.merge_step):
        fixed = _merges_in(config.fixed.blocks)
        yield from (Dimension(name, 0, high, 1, 0) for name in merging.dimensions if name not in fixed)
    if len(config.precision) > 1:
        yield Dimension(PRECISION, 0, 1, 1, 0)


def _dimension(
    shape: ModelShape, kind: str, allowed: WidthRange, full: int, name: str, field: str
) -> Iterator[Dimension]:
    if allowed.low > full:
        raise UserError(f"{field}.low is {allowed.low}, but the model has {full}")
    if (full - allowed.low) % allowed.step:
        near = full - (full - allowed.low) // allowed.step * allowed.step
        raise UserError(f"{field}.low {allowed.low} is not {full} minus steps of {allowed.step}; nearest: {near}")
    if kind == "qk" and shape.position == "rotary" and (allowed.low % 2 or allowed.step % 2):
        raise UserError(f"{field}: low {allowed.low}, step {allowed.step}: rotary position needs even numbers")
    low = allowed.low - allowed.step if allowed.drop else allowed.low
    if low < full:
        yield Dimension(name, low, full, allowed.step, full, allowed.drop)


def _check_blocks(config: SpaceConfig, depth: int) -> None:
    named = {"fixed.blocks": config.fixed.blocks}
    named |= {f"{kind}.blocks": tuple(found.blocks) for kind in BLOCK_WIDTHS if (found := getattr(config, kind))}
    for field, blocks in named.items():
        for block in blocks:
            if block >= depth:
                raise UserError(
                    f"space.{field} has {block}, the model has blocks 0 to {depth - 1}; nearest: {depth - 1}"
                )


def _merges_in(blocks: tuple[int, ...]) -> set[str]:
    return {f"{kind}_{block}" for kind in ("merge", "merge_windows") for block in blocks}


def sparing(shape: ModelShape, config: SpaceConfig, recipe: Recipe, image: Size | None = None) -> Recipe:
    """Return a recipe as near as a space's fixed blocks, ranges of single blocks and precisions allow.

    Fixed blocks get their dense widths and do not merge. Where a block has a range of its own, narrower widths are
    raised to its minimum.
    """
    full, blocks = dense(shape), list[BlockWidths]()
    for index, (widths, unpruned) in enumerate(zip(recipe.blocks, full.blocks, strict=True)):
        if index in config.fixed.blocks:
            blocks.append(unpruned)
            continue
        raised = {}
        for kind in BLOCK_WIDTHS:
            allowed = range_in(config, kind, index)
            if allowed is not None and index in allowed.blocks and 0 < getattr(widths, kind) < allowed.low:
                raised[kind] = allowed.low
        blocks.append(widths.model_copy(update=raised) if raised else widths)
    merge = recipe.merge
    if merge is not None and _merges_in(config.fixed.blocks).intersection(merge.dimensions):
        merge = merge.sparing(config.fixed.blocks, shape, image)
    precision = recipe.precision if recipe.precision in config.precision else config.precision[0]
    return Recipe(embed=recipe.embed, blocks=tuple(blocks), merge=merge, precision=precision)
