# SPDX-License-Identifier: Apache-2.0
"""ALGM: windows of similar neighbours merge early; similar tokens merge globally once, about half way.

Norouzi et al., "ALGM: Adaptive Local-then-Global Token Merging for Efficient Semantic Segmentation
with Plain Vision Transformers", CVPR 2024 (REFERENCE 5). Both merges compare the residual stream
after attention, and attention does not weight tokens by size.

Legend: B batch, N tokens, P special tokens, E embedding width, W windows of 2x2 patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raycomp.merging.base import ROUNDED, MergeMethod, even_grid, merged_pairs, rounded_share
from raycomp.shape import Grid, ModelShape, Size

if TYPE_CHECKING:
    from torch import Tensor

    from raycomp.merging.tokens import Tokens


class Algm(MergeMethod):
    """Adaptive local-then-global token merging.

    It has two forms. With `threshold`, each image merges what is similar enough. With `windows` and `pairs`, all images
    merge the same counts, which batches allow and a search needs. In a batch, the adaptive form merges as many tokens
    as the image that merges fewest, because a batch needs equal token counts.
    """

    title: ClassVar[str] = "ALGM"
    symbol: ClassVar[str] = "T"
    revision: ClassVar[str] = "merged first"  # an older release ordered tokens differently

    method: Literal["algm"] = "algm"
    blocks: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """The block that merges windows and the block that merges pairs, counted from 1 as in the paper."""
    threshold: Annotated[float, Field(ge=-1, le=1), ROUNDED] | None = None
    """T: a 2x2 window with a mean cosine of at least T becomes one token."""
    windows: Annotated[float, Field(ge=0, le=1), ROUNDED] | None = None
    """Share of windows that become one token."""
    pairs: Annotated[float, Field(ge=0, le=0.5), ROUNDED] | None = None
    """Share of the mergeable tokens that merge globally."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        shares = (self.windows, self.pairs)
        if (self.threshold is None) != (None not in shares) or (self.threshold is not None and shares != (None, None)):
            raise ValueError("algm needs either threshold, -1 to 1, or both windows, 0 to 1, and pairs, 0 to 0.5")
        if self.blocks[0] >= self.blocks[1]:
            raise ValueError(f"algm.blocks is {list(self.blocks)}: windows must merge before pairs")
        return self

    def check_depth(self, depth: int) -> None:
        if self.blocks[1] > depth:
            raise ValueError(f"merge.blocks is {list(self.blocks)}; blocks are 1 to {depth}")

    @property
    def empty(self) -> bool:
        return not self.adaptive and not self.windows and not self.pairs

    @property
    def adaptive(self) -> bool:
        return self.threshold is not None

    def tokens_removed(self, shape: ModelShape, image: Size | None) -> tuple[int, list[int]]:
        if self.windows is None or self.pairs is None:
            raise ValueError("the tokens of adaptive ALGM depend on the image")
        rows, columns = even_grid(shape.grid(image), self.title, shape.patch)
        patches, removed, (local, globally) = rows * columns, [0] * shape.depth, self.blocks
        removed[local - 1] = 3 * rounded_share(self.windows, patches // 4)
        removed[globally - 1] = merged_pairs(self.pairs, patches - removed[local - 1])
        return 0, removed

    def metric_width(self, block: int, merged: int, embed: int, heads: int, qk: int) -> int:
        del heads, qk
        return embed if block == self.blocks[1] - 1 and (self.adaptive or merged) else 0

    def merge(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens | None]:
        del keys
        if block == self.blocks[0] - 1:
            return self._local(x, tokens, grid, prefix)
        if block == self.blocks[1] - 1:
            return self._global(x, tokens, prefix)
        return x, tokens

    def _local(self, x: Tensor, tokens: Tokens | None, grid: Grid, prefix: int) -> tuple[Tensor, Tokens | None]:
        from raycomp.merging.tokens import best_windows_first, merge_tokens, window_scores

        scores = window_scores(x[:, prefix:], even_grid(grid, self.title))
        if self.threshold is not None:
            count = int((scores >= self.threshold).sum(1).min())
        else:
            count = rounded_share(self.windows or 0.0, scores.shape[1])
        if count == 0:
            return x, tokens
        index = best_windows_first(scores, count, grid, prefix)  # the order decides which pairs can merge later
        return merge_tokens(x, tokens, index, x.shape[1] - 3 * count, prefix)

    def _global(self, x: Tensor, tokens: Tokens | None, prefix: int) -> tuple[Tensor, Tokens | None]:
        from raycomp.merging.tokens import best_partners, merge_tokens, pair_positions

        N = x.shape[1]
        if self.pairs == 0:
            return x, tokens
        best, partner = best_partners(x, prefix)
        if self.pairs is None:
            r = int(alike(best, self.blocks[1], prefix).sum(1).min())
        else:
            r = merged_pairs(self.pairs, N - prefix)
        if r == 0:
            return x, tokens
        return merge_tokens(x, tokens, pair_positions(best, partner, r, N, prefix), N - r, prefix)

    @classmethod
    def standard(cls, shape: ModelShape, policy: str) -> Self:
        """Return the adaptive form."""
        del policy
        return cls(blocks=algm_blocks(shape.depth), threshold=-1)

    def at(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        """Keep the form: T falls from 1 to -1, or both shares rise together."""
        del shape, image
        if self.adaptive:
            return type(self)(blocks=self.blocks, threshold=1 - 2 * strength)
        return type(self)(blocks=self.blocks, windows=strength, pairs=strength / 2)

    def schedules(self, shape: ModelShape, image: Size | None) -> dict[str, Callable[[float], Self]]:
        return {"uniform": lambda strength: self.with_searched({}).at(strength, shape, image)}

    def operating_point(self, shape: ModelShape, image: Size | None) -> str:
        del shape, image
        if self.adaptive:
            return f"{self.symbol} = {self.threshold:.3f}"
        return f"windows {self.windows:.3f}, pairs {self.pairs:.3f}"

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(f"merge_{block - 1}" for block in self.blocks)

    @property
    def searched(self) -> dict[str, float]:
        if self.windows is None or self.pairs is None:
            return {}
        return dict(zip(self.dimensions, (self.windows / 2, self.pairs), strict=True))

    def with_searched(self, ratios: Mapping[str, float]) -> Self:
        """Return the form with fixed counts."""
        local, globally = (ratios.get(name, 0.0) for name in self.dimensions)
        return type(self)(blocks=self.blocks, windows=2 * local, pairs=globally)

    def last_block(self, depth: int) -> int:
        del depth
        return self.blocks[1]

    def fixed(self, tokens: Sequence[float], patches: int) -> Self:
        local, globally = (tokens[block - 1] for block in self.blocks)
        windows, pairs = (patches - local) / 3 / (patches // 4), min(0.5, 1 - globally / local)
        return type(self)(blocks=self.blocks, windows=windows, pairs=pairs)


def algm_blocks(depth: int) -> tuple[int, int]:
    """Return where ALGM merges: blocks 1 and 5 of 12, 1 and 7 of 24; other depths in proportion to 12."""
    return 1, {12: 5, 24: 7}.get(depth, max(2, round(depth * 5 / 12)))


def alike(best: Tensor, block: int, prefix: int) -> Tensor:
    """Return which sources of `best_partners` merge globally: best cosine >= mean + std / block, per image.

    Args:
        best: (B, ceil(N/2)), -inf for special tokens.
        block: the merging block, counted from 1.
    """
    scores = best[:, (prefix + 1) // 2 :]
    limit = scores.mean(1, keepdim=True) + scores.std(1, keepdim=True) / block
    return scores >= limit
