# SPDX-License-Identifier: Apache-2.0
"""Windows, then ToMe: 2x2 windows of similar neighbours merge in one block, similar pairs in it and all later ones.

The windows are the first stage of ALGM with a fixed count (Norouzi et al., CVPR 2024, REFERENCE 5); the pairs are those
of ToMe (Bolya et al., ICLR 2023, REFERENCE 4). Both merge between attention and MLP, and attention weights tokens by
size from the first merge on. The block of the windows merges them first, and then pairs among the tokens that remain.

Legend: B batch, N tokens, P special tokens, E embedding width, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raycomp.merging.base import ROUNDED, MergeMethod, even_grid, merged_pairs, rounded_share
from raycomp.merging.tome import (
    Metric,
    ToMe,
    compared,
    compared_width,
    even_counts,
    located,
    pair_counts,
    pair_ratios,
    uncapped_mean,
)
from raycomp.shape import Grid, ModelShape, Size

if TYPE_CHECKING:
    from torch import Tensor

    from raycomp.merging.tokens import Tokens


_WINDOWS = 4  # share of windows at strength 1, of which all are 1: 2r windows for r pairs in every block


class WindowsToMe(MergeMethod):
    """A share of the 2x2 windows merges in one block, then pairs with one ratio per block."""

    title: ClassVar[str] = "local+ToMe"
    symbol: ClassVar[str] = "r"
    proportional: ClassVar[bool] = True
    compares_keys: ClassVar[bool] = True
    merges_windows: ClassVar[bool] = True

    method: Literal["windows_tome"] = "windows_tome"
    block: Annotated[int, Field(ge=1)] = 1
    """The block that merges windows, counted from 1. No earlier block merges, because windows need all patches."""
    windows: Annotated[float, Field(ge=0, le=1), ROUNDED]
    """Share of the windows that become one token; the windows of highest mean cosine merge."""
    ratios: tuple[Annotated[float, Field(ge=0, le=0.5), ROUNDED], ...]
    """Share of the mergeable tokens that merge in pairs in each block, after the windows; 0 for none."""
    metric: Metric = "near_keys"
    """Similarity of pairs: see `ToMe`. A merged window has the mean key of its patches."""

    @model_validator(mode="after")
    def _windows_first(self) -> Self:
        if any(self.ratios[: self.block - 1]):
            raise ValueError(
                f"windows_tome.block is {self.block}: windows merge first, so ratios before that block must be 0, not "
                f"{list(self.ratios[: self.block - 1])}"
            )
        return self

    def check_depth(self, depth: int) -> None:
        if len(self.ratios) != depth:
            raise ValueError(f"merge.ratios has {len(self.ratios)} entries for {depth} blocks")
        if self.block > depth:
            raise ValueError(f"merge.block is {self.block}; blocks are 1 to {depth}")

    @property
    def empty(self) -> bool:
        return not self.windows and not any(self.ratios)

    @property
    def note(self) -> str:
        return f"{self.windows:.1%} of the 2x2 windows merge first, in block {self.block - 1}"

    @property
    def simplest(self) -> MergeMethod:
        return self if self.windows else ToMe(ratios=self.ratios, metric=self.metric)

    def tokens_removed(self, shape: ModelShape, image: Size | None) -> tuple[int, list[int]]:
        rows, columns = shape.grid(image)
        if self.windows:
            even_grid((rows, columns), self.title, shape.patch)
        removed = 3 * self._merged_windows(rows * columns)
        counts = pair_counts(rows * columns - removed, self.ratios)
        counts[self.block - 1] += removed
        return 0, counts

    def _merged_windows(self, patches: int) -> int:
        return rounded_share(self.windows, patches // 4)

    def removed_before_pairs(self, block: int, patches: int) -> int:
        return 3 * self._merged_windows(patches) if block == self.block - 1 else 0

    def metric_width(self, block: int, merged: int, embed: int, heads: int, qk: int) -> int:
        del block, embed
        return compared_width(self.metric, heads, qk) if merged else 0

    def merge(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens | None]:
        from raycomp.merging.tokens import match, merge_tokens

        metric = compared(keys, self.metric)
        if block == self.block - 1 and self.windows:
            x, metric, tokens = self.local(x, metric, tokens, grid, prefix)
        N = x.shape[1]
        r = merged_pairs(self.ratios[block], N - prefix)
        if r == 0:
            return x, tokens
        metric = located(metric, self.metric, tokens, grid, prefix)
        return merge_tokens(x, tokens, match(metric, r, prefix), N - r, prefix)

    def local(
        self, x: Tensor, metric: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tensor, Tokens | None]:
        """Merge windows of x (B, N, E), and what their patches are compared by."""
        import torch

        from raycomp.merging.tokens import best_windows_first, merge, merge_tokens, window_scores

        scores = window_scores(x[:, prefix:], even_grid(grid, self.title))
        count = rounded_share(self.windows, scores.shape[1])
        if count == 0:
            return x, metric, tokens
        # Merged windows lead, so that sources and destinations (even and odd positions) hold as many of them.
        index, left = best_windows_first(scores, count, grid, prefix), x.shape[1] - 3 * count
        if self.ratios[self.block - 1]:
            metric = metric.mean(1) if metric.dim() == 4 else metric
            metric, _ = merge(metric, torch.ones(metric.shape[:2], device=x.device), index, left)
        x, tokens = merge_tokens(x, tokens, index, left, prefix)
        return x, metric, tokens

    @classmethod
    def standard(cls, shape: ModelShape, policy: str) -> Self:
        del policy
        return cls(windows=1.0, ratios=(0.5,) * shape.depth)

    def at(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        """Merge 2r windows, then r pairs in every block; strength 0 to 1 is r = 0 to N/2."""
        counts = even_counts(strength, shape, image)
        return self._with_counts(min(1.0, _WINDOWS * strength), counts, shape, image)

    def _with_counts(self, windows: float, counts: Sequence[int], shape: ModelShape, image: Size | None) -> Self:
        rows, columns = shape.grid(image)
        left = rows * columns - 3 * rounded_share(windows, rows * columns // 4)
        later = [0 if i < self.block - 1 else count for i, count in enumerate(counts)]
        return type(self)(block=self.block, windows=windows, ratios=pair_ratios(left, later), metric=self.metric)

    def operating_point(self, shape: ModelShape, image: Size | None) -> str:
        """Describe the share of windows, and r as for ToMe."""
        rows, columns = shape.grid(image)
        left = rows * columns - 3 * self._merged_windows(rows * columns)
        return f"windows {self.windows:.3f}, {self.symbol} = {uncapped_mean(left, self.ratios):.4g}"

    @property
    def dimensions(self) -> tuple[str, ...]:
        first = self.block - 1
        return (f"merge_windows_{first}", *(f"merge_{block}" for block in range(first, len(self.ratios))))

    @property
    def searched(self) -> dict[str, float]:
        return dict(zip(self.dimensions, (self.windows / 2, *self.ratios[self.block - 1 :]), strict=True))

    def with_searched(self, ratios: Mapping[str, float]) -> Self:
        windows, *pairs = (ratios.get(name, 0.0) for name in self.dimensions)
        pairs = [0.0] * (self.block - 1) + pairs
        return type(self)(block=self.block, windows=2 * windows, ratios=tuple(pairs), metric=self.metric)

    def expressed(self, merge: MergeMethod | None) -> Self | None:
        """Return the settings of a `WindowsToMe`, or of a `ToMe` that merges nothing before the windows would."""
        if isinstance(merge, ToMe) and not any(merge.ratios[: self.block - 1]):
            return type(self)(block=self.block, windows=0.0, ratios=merge.ratios, metric=merge.metric)
        return super().expressed(merge)
