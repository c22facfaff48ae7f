# SPDX-License-Identifier: Apache-2.0
"""The prunable units along each axis of each tensor of a model, for saliency and slicing.

Modules declare them (`axes`). An axis name stands for one set of units: `embed`, and for block i `block.i.qkv` (rows
of q, k and v, heads outermost), `block.i.qk` (rows of q alone), `block.i.pair` (rotation pairs of q), `block.i.v`
(columns of the output projection), `block.i.mlp` and `block.i.gated` (rows of gate and value). In the mask decoder,
`decoder.embed` is its width, `decoder.out` the output of its mask projections, and `decoder.block.i.*` are its blocks.
"""

from collections.abc import Iterator
from functools import cache
from itertools import chain

from torch import Tensor

from raycomp.models.block import Axes
from raycomp.models.segmenter import Segmenter


def axes(model: Segmenter) -> Iterator[tuple[str, Tensor, Axes]]:
    """Yield every parameter and stored buffer of a model with the units along each of its axes.

    Raises:
        TypeError: if no module declares the axes of a tensor.
    """
    declared: dict[str, Axes] = {}
    for prefix, module in model.named_modules():
        for name, units in getattr(module, "axes", {}).items():
            declared[f"{prefix}.{name}"] = tuple(_placed(prefix, unit) for unit in units)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if name not in declared:
            raise TypeError(f"no module declares the axes of {name}")
        yield name, tensor, declared[name]


@cache
def _placed(prefix: str, unit: str | None) -> str | None:
    """Name a unit that a module declares: those of a block are of its block, and of its encoder or decoder."""
    part, kind, *rest = [*prefix.split("."), ""]
    if unit is None or kind != "blocks":
        return unit
    where = "" if part == "encoder" else "decoder."
    return f"{where}embed" if unit == "embed" else f"{where}block.{rest[0]}.{unit}"
