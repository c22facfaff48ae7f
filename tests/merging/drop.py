# SPDX-License-Identifier: Apache-2.0
"""A merge method beyond the shipped ones, added as its author would: one class, and its name in the union.

As a plugin (`python -m pytest -p tests.merging.drop`) it is there before any recipe is defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from raycomp import merging
from raycomp.merging.base import ROUNDED, MergeMethod, merged_pairs
from raycomp.shape import Grid, ModelShape, Size

if TYPE_CHECKING:
    from torch import Tensor

    from raycomp.merging.tokens import Tokens


class Drop(MergeMethod):
    """Drops the patch tokens of least norm after one block; the kept token before each takes its place."""

    title: ClassVar[str] = "Drop"
    symbol: ClassVar[str] = "d"

    method: Literal["drop"] = "drop"
    block: int = Field(ge=1)
    """Counted from 1."""
    ratio: Annotated[float, Field(ge=0, le=0.5), ROUNDED]

    def check_depth(self, depth: int) -> None:
        if self.block > depth:
            raise ValueError(f"merge.block is {self.block}; blocks are 1 to {depth}")

    @property
    def empty(self) -> bool:
        return not self.ratio

    def tokens_removed(self, shape: ModelShape, image: Size | None) -> tuple[int, list[int]]:
        (rows, columns), removed = shape.grid(image), [0] * shape.depth
        removed[self.block - 1] = merged_pairs(self.ratio, rows * columns)
        return 0, removed

    def merge(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens | None]:
        import torch

        from raycomp.merging.tokens import Tokens

        count = merged_pairs(self.ratio, x.shape[1] - prefix)
        if block != self.block - 1 or not count:
            return x, tokens
        norms = x.square().sum(-1)
        norms[:, : prefix + 1] = torch.inf  # special tokens stay, and so does the first patch
        kept = norms.topk(x.shape[1] - count).indices.sort(1).values  # (B, fewer)
        stays = torch.zeros_like(norms, dtype=torch.int64).scatter_(1, kept, 1)
        place = stays.cumsum(1) - 1  # (B, N)
        size = torch.zeros_like(kept, dtype=torch.float32).scatter_add_(1, place, torch.ones_like(place).float())
        return x.gather(1, kept[..., None].expand(-1, -1, x.shape[-1])), Tokens(size, place[:, prefix:])

    @classmethod
    def standard(cls, shape: ModelShape, policy: str) -> Self:
        return cls(block=1, ratio=0.5)

    def at(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        return type(self)(block=self.block, ratio=strength / 2)

    def operating_point(self, shape: ModelShape, image: Size | None) -> str:
        return f"{self.symbol} = {self.ratio:.3f}"

    @property
    def dimensions(self) -> tuple[str, ...]:
        return (f"merge_{self.block - 1}",)

    @property
    def searched(self) -> dict[str, float]:
        return {self.dimensions[0]: self.ratio}

    def with_searched(self, ratios: Mapping[str, float]) -> Self:
        return type(self)(block=self.block, ratio=ratios.get(self.dimensions[0], 0.0))


kinds: Any = merging.METHODS
union: Any = Annotated[merging.Algm | merging.Cts | merging.ToMe | Drop, Field(discriminator="method")]
merging.Merge = union
kinds["drop"] = Drop
