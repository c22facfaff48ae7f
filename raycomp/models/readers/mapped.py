# SPDX-License-Identifier: Apache-2.0
"""Read a file whose tensors the user names: `raycomp import FILE --map names.yaml`.

    shape: {width: 384, heads: 6, depth: 12, patch: 16, image: [512, 512], classes: 19, decoder: linear}
    tensors:
      encoder.cls_token: vit.cls
      encoder.blocks.*.attn.qkv.weight: [vit.*.q.weight, vit.*.k.weight, vit.*.v.weight]  # rows are joined
      encoder.blocks.*.attn.qkv.bias: zero
      decoder.head.weight: {from: classes, transpose: true}
    left: [mask_token]

`*` stands for the index of a block. `raycomp import FILE --names` prints both sides.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from raycomp.config import explain, parsed
from raycomp.errors import UserError, first_line, nearest
from raycomp.models.readers.ledger import Ledger
from raycomp.models.readers.positions import pairs
from raycomp.models.readers.source import Source, Translation
from raycomp.models.segmenter import empty
from raycomp.recipe import dense
from raycomp.shape import ModelShape

_ZERO = "zero"


class _From(BaseModel):
    """Tensors of the file that become one tensor."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    names: str | Annotated[list[str], Field(min_length=1)] = Field(alias="from")
    transpose: bool = False
    """Swap the first two axes of each tensor before joining."""


class NameMap(BaseModel):
    """The content of a file of tensor names."""

    model_config = ConfigDict(extra="forbid")
    shape: ModelShape
    tensors: dict[str, str | Annotated[list[str], Field(min_length=1)] | _From]
    left: list[str] = []
    """Tensors of the file that are not used."""


def load_map(path: Path) -> NameMap:
    """Read a file of tensor names.

    Raises:
        UserError: naming the field that is wrong.
    """
    try:
        return NameMap.model_validate(parsed(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, NameMap)}") from None


def read(source: Source, path: Path) -> Translation:
    """Translate a source by a file of tensor names.

    Raises:
        UserError: naming a tensor that is not mapped, missing, or of another size.
    """
    name_map = load_map(path)
    expected = expected_tensors(name_map.shape)
    rules = {name: _rule(path, name, name_map) for name in expected}
    for name in name_map.tensors:
        if not any(_star(name, parameter) is not None for parameter in expected):
            raise UserError(f"{path}: tensors has {name!r}: {nearest(name, expected)}")
    ledger = Ledger(source.tensors, source.path)
    ledger.leave({re.escape(name): f"left by {path.name}" for name in name_map.left})
    tensors = {name: _take(ledger, name, rules[name], size) for name, size in expected.items()}
    if name_map.shape.position == "rotary":
        order = pairs(name_map.shape.heads, name_map.shape.head_dim, name_map.shape.depth)
        tensors |= {f"encoder.{name}": tensor for name, tensor in order.items()}
    ledger.close(f"mapped by {path.name}", "; map it, or list it under `left`")
    return Translation(
        family=f"mapped by {path.name}",
        shape=name_map.shape,
        tensors=tensors,
        has_head=True,
        folded=tuple(ledger.folded),
        left=tuple(ledger.left),
    )


def expected_tensors(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Return the names and sizes of a dense model's parameters."""
    return {name: tuple(tensor.shape) for name, tensor in empty(shape, dense(shape)).named_parameters()}


def collapsed(sizes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return names and sizes, each once, with `*` for the first number of a name."""
    return {re.sub(r"(?<=\.)\d+(?=\.)", "*", name, count=1): size for name, size in sizes.items()}


def _star(pattern: str, name: str) -> str | None:
    """Return the number that `*` stands for in a matching name, "" without a `*`; None if the name does not match."""
    match = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)", 1), name)
    return None if match is None else (match[1] if match.groups() else "")


def _rule(path: Path, name: str, name_map: NameMap) -> _From:
    """Return the rule of a tensor, with the index of its block in place of `*`."""
    for pattern, rule in name_map.tensors.items():
        if (index := _star(pattern, name)) is not None:
            names, transpose = (rule.names, rule.transpose) if isinstance(rule, _From) else (rule, False)
            sources = [names] if isinstance(names, str) else names
            return _From(names=[source.replace("*", index) for source in sources], transpose=transpose)
    pattern = next(iter(collapsed({name: ()})))
    raise UserError(f"{path}: tensors lacks {pattern!r}; give its name in the file, or `{_ZERO}`")


def _take(ledger: Ledger, name: str, rule: _From, size: tuple[int, ...]) -> Tensor:
    """Take a tensor by its rule; axes of length 1 may be added or removed."""
    names = list(rule.names)
    if names == [_ZERO]:
        ledger.fold(f"{next(iter(collapsed({name: ()})))} is zero")
        return torch.zeros(size)
    parts = [ledger.take(source) for source in names]
    if rule.transpose:
        ledger.fold("tensors are transposed")
        parts = [part.transpose(0, 1) if part.ndim > 1 else part for part in parts]
    shapes = {part.shape[1:] for part in parts}
    tensor = torch.cat(parts) if len(shapes) == 1 and parts[0].ndim else parts[0]
    if [side for side in tensor.shape if side != 1] != [side for side in size if side != 1]:
        shown = " + ".join(str(list(part.shape)) for part in parts)
        raise UserError(f"{ledger.path}: {' + '.join(names)} has shape {shown}; expected {list(size)}, as {name}")
    return tensor.reshape(size).contiguous()
