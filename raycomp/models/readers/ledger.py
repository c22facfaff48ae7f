# SPDX-License-Identifier: Apache-2.0
"""Account for every tensor of a file: each is taken, or left for a stated reason; nothing is ignored."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from raycomp.errors import UserError, nearest

LEFT = {
    r"(.*\.)?num_batches_tracked": "counter of batch norm, unused in evaluation",
    r"(.*\.)?mask_token": "token of pretraining with masked patches",
    r"(.*\.)?(criterion|loss)\..*": "loss",
    r"(.*\.)?(optimi[sz]er|lr_scheduler)\..*": "training state",
    r"(auxiliary_head|aux_head)\..*": "auxiliary head, used in training only",
    r"(.*\.)?(pooler|attn_pool|fc_norm|pre_logits)\..*": "pooling of a classifier",
    r"(.*\.)?(dino_head|ibot_head)\..*": "head of pretraining",
    r"(.*\.)?(position_ids|relative_position_index)": "table of indices",
}
"""Names of tensors that segmentation does not use, and why."""


class Ledger:
    """The tensors of a file by the names that a reader gives them; errors quote the names in the file."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, rename: Callable[[str], str] = str) -> None:
        """Rename the tensors.

        Raises:
            UserError: if two tensors get one name.
        """
        self.path = path
        self.folded: list[str] = []
        self.left: list[str] = []
        self.inferred: list[str] = []
        self._held: dict[str, tuple[str, Tensor]] = {}
        for original, tensor in tensors.items():
            name = rename(original)
            if name in self._held:
                raise UserError(f"{path}: tensors {self._held[name][0]!r} and {original!r} are the same parameter")
            self._held[name] = original, tensor

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def names(self, pattern: str) -> list[str]:
        """Return the names left that match a regular expression from their start."""
        return [name for name in self._held if re.match(pattern, name)]

    def rename(self, before: str, after: str) -> None:
        """Rename the tensors whose names start with `before`."""
        for name in self.names(re.escape(before)):
            self._held[after + name.removeprefix(before)] = self._held.pop(name)

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor that the source implies."""
        self._held[name] = name, tensor

    def quoted(self, name: str) -> str:
        """Return the name that a tensor has in the file, for errors."""
        return self._held[name][0] if name in self._held else name

    def size(self, name: str, dimensions: int | None = None) -> tuple[int, ...]:
        """Return the shape of a tensor without taking it.

        Raises:
            UserError: if there is none of this name, or if it has not so many dimensions, or no elements.
        """
        if name not in self._held:
            raise UserError(f"{self.path}: tensor {name!r} is missing; {nearest(name, self._held)}")
        original, tensor = self._held[name]
        if tensor.numel() == 0 or dimensions not in (None, tensor.ndim):
            expected = "" if dimensions is None else f" of {dimensions} dimensions"
            raise UserError(f"{self.path}: tensor {original!r} has shape {list(tensor.shape)}; expected one{expected}")
        return tuple(tensor.shape)

    def take(self, name: str, size: tuple[int, ...] | None = None) -> Tensor:
        """Take a tensor as float32.

        Raises:
            UserError: if it is missing, not finite, or not of the given size.
        """
        if name not in self._held:
            self.size(name)
        original, tensor = self._held.pop(name)
        if size is not None and tuple(tensor.shape) != size:
            raise UserError(f"{self.path}: tensor {original!r} has shape {list(tensor.shape)}, expected {list(size)}")
        cast = tensor.to(torch.float32)
        if broken := int((~cast.isfinite()).sum()):
            raise UserError(
                f"{self.path}: tensor {original!r} is not finite: {broken} of {cast.numel()} values are NaN or infinite"
            )
        return cast

    def get(self, name: str, size: tuple[int, ...] | None = None) -> Tensor | None:
        """Take a tensor that a model may lack."""
        return self.take(name, size) if name in self._held else None

    def bias(self, name: str, width: int) -> Tensor:
        """Take a bias; one that the source lacks is zero."""
        if (held := self.get(name, (width,))) is not None:
            return held
        self.fold("missing biases are zero")
        return torch.zeros(width)

    def fold(self, what: str) -> None:
        """Note a rewrite, once."""
        if what not in self.folded:
            self.folded.append(what)

    def infer(self, what: str) -> None:
        """Note a setting that the file does not state."""
        self.inferred.append(what)

    def leave(self, patterns: Mapping[str, str]) -> None:
        """Leave the tensors whose names match a regular expression, for its reason."""
        for pattern, reason in patterns.items():
            names = [name for name in self._held if re.fullmatch(pattern, name)]
            if names:
                quoted = self._held[names[0]][0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
                self.left.append(f"{quoted}: {reason}")
            for name in names:
                del self._held[name]

    def close(self, family: str) -> None:
        """Check that no tensor is left over.

        Raises:
            UserError: naming the first tensor that was neither taken nor left.
        """
        self.leave(LEFT)
        if self._held:
            original, tensor = next(iter(self._held.values()))
            more = f", nor for {len(self._held) - 1} more" if len(self._held) > 1 else ""
            raise UserError(
                f"{self.path}: a {family} in raycomp has no place for tensor {original!r} {list(tensor.shape)}{more}"
            )
