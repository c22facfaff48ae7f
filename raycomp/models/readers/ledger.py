# SPDX-License-Identifier: Apache-2.0
"""Account for every tensor of a file: each is taken, or left for a stated reason."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from raycomp.errors import UserError, nearest

LEFT = {
    r"(.*\.)?num_batches_tracked": "batch norm counter, unused in evaluation",
    r"(.*\.)?mask_token": "mask token of pretraining",
    r"(.*\.)?(criterion|loss)\..*": "loss",
    r"(.*\.)?(optimi[sz]er|lr_scheduler)\..*": "training state",
    r"(auxiliary_head|aux_head)\..*": "auxiliary head, used in training only",
    r"(.*\.)?(pooler|attn_pool|fc_norm|pre_logits)\..*": "pooling of an image classifier",
    r"(.*\.)?(dino_head|ibot_head)\..*": "pretraining head",
    r"(.*\.)?(position_ids|relative_position_index)": "index table",
}
"""Patterns of tensors that segmentation does not use, and why."""


class Ledger:
    """Tensors of a file under the names that a reader gives them; errors quote their names in the file."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, rename: Callable[[str], str] = str) -> None:
        """Rename the tensors.

        Raises:
            UserError: if two tensors get the same name.
        """
        self.path = path
        self.folded: list[str] = []
        self.left: list[str] = []
        self.inferred: list[str] = []
        self._tensors: dict[str, tuple[str, Tensor]] = {}
        for original, tensor in tensors.items():
            name = rename(original)
            if name in self._tensors:
                raise UserError(f"{path}: tensors {self._tensors[name][0]!r} and {original!r} are the same parameter")
            self._tensors[name] = original, tensor

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self, pattern: str) -> list[str]:
        """Return the remaining names whose start matches a regular expression."""
        return [name for name in self._tensors if re.match(pattern, name)]

    def rename(self, before: str, after: str) -> None:
        """Replace the prefix `before` of tensor names by `after`."""
        for name in self.names(re.escape(before)):
            self._tensors[after + name.removeprefix(before)] = self._tensors.pop(name)

    def add(self, name: str, tensor: Tensor) -> None:
        """Add a tensor that the file implies."""
        self._tensors[name] = name, tensor

    def name_in_file(self, name: str) -> str:
        """Return the name of a tensor in the file, for errors."""
        return self._tensors[name][0] if name in self._tensors else name

    def size(self, name: str, dimensions: int | None = None) -> tuple[int, ...]:
        """Return the shape of a tensor without taking it.

        Raises:
            UserError: if it is missing, has no elements, or another number of dimensions.
        """
        if name not in self._tensors:
            raise UserError(f"{self.path}: tensor {name!r} is missing; {nearest(name, self._tensors)}")
        original, tensor = self._tensors[name]
        if tensor.numel() == 0 or dimensions not in (None, tensor.ndim):
            expected = "a tensor with values" if dimensions is None else f"{dimensions} dimensions"
            raise UserError(f"{self.path}: tensor {original!r} has shape {list(tensor.shape)}; expected {expected}")
        return tuple(tensor.shape)

    def take(self, name: str, size: tuple[int, ...] | None = None) -> Tensor:
        """Take a tensor as float32.

        Raises:
            UserError: if it is missing, not finite, or has another size.
        """
        if name not in self._tensors:
            self.size(name)
        original, tensor = self._tensors.pop(name)
        if size is not None and tuple(tensor.shape) != size:
            raise UserError(f"{self.path}: tensor {original!r} has shape {list(tensor.shape)}, expected {list(size)}")
        cast = tensor.to(torch.float32)
        if broken := int((~cast.isfinite()).sum()):
            raise UserError(
                f"{self.path}: tensor {original!r} is not finite: {broken} of {cast.numel()} values are NaN or infinite"
            )
        return cast

    def get(self, name: str, size: tuple[int, ...] | None = None) -> Tensor | None:
        """Take an optional tensor; return None if it is missing."""
        return self.take(name, size) if name in self._tensors else None

    def bias(self, name: str, width: int) -> Tensor:
        """Take a bias; a missing one is zero."""
        if (bias := self.get(name, (width,))) is not None:
            return bias
        self.fold("missing biases are zero")
        return torch.zeros(width)

    def fold(self, what: str) -> None:
        """Record a rewrite, once."""
        if what not in self.folded:
            self.folded.append(what)

    def infer(self, what: str) -> None:
        """Record a setting that the file does not state."""
        self.inferred.append(what)

    def leave(self, patterns: Mapping[str, str]) -> None:
        """Leave the tensors whose full names match a pattern, for the reason that it maps to."""
        for pattern, reason in patterns.items():
            names = [name for name in self._tensors if re.fullmatch(pattern, name)]
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                self.left.append(f"{self.name_in_file(names[0])}{more}: {reason}")
            for name in names:
                del self._tensors[name]

    def close(self, family: str, hint: str = "") -> None:
        """Check that every tensor was taken or left.

        Args:
            family: Name of the model family, as users read it.
            hint: What the user can do about a remaining tensor.

        Raises:
            UserError: naming the first remaining tensor.
        """
        self.leave(LEFT)
        if self._tensors:
            original, tensor = next(iter(self._tensors.values()))
            tensors = f"{original!r} {list(tensor.shape)}"
            if len(self._tensors) > 1:
                tensors += f" and {len(self._tensors) - 1} more"
            raise UserError(f"{self.path}: raycomp has no counterpart for tensor {tensors} ({family}){hint}")
