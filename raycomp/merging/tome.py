# SPDX-License-Identifier: Apache-2.0
"""ToMe: a few of the most similar tokens merge in every block, and attention weights tokens by size.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (REFERENCE 4).

Legend: B batch, N tokens, E embedding width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from raycomp.merging.base import RATIO_DIGITS, ROUNDED, MergeMethod, merged_pairs
from raycomp.shape import Grid, ModelShape, Size

if TYPE_CHECKING:
    from torch import Tensor

    from raycomp.merging.tokens import Tokens

Metric = Literal["mean_keys", "keys", "near_keys"]
_NEARNESS = 0.1  # weight of the places of near_keys: a quarter of the longer side costs as much as 0.03 of the cosine


class ToMe(MergeMethod):
    """Token merging with one ratio per block."""

    title: ClassVar[str] = "ToMe"
    symbol: ClassVar[str] = "r"
    proportional: ClassVar[bool] = True
    compares_keys: ClassVar[bool] = True

    method: Literal["tome"] = "tome"
    ratios: tuple[Annotated[float, Field(ge=0, le=0.5), ROUNDED], ...]
    """Share of the mergeable tokens that merge in each block; 0 for none."""
    metric: Metric = "mean_keys"
    """Similarity of keys averaged over heads (ToMe), of the concatenated keys of all heads (as counted in the paper's
    GFLOPs, REFERENCE 2), or of averaged keys and of the places of tokens, so that distant pairs merge later."""

    def check_depth(self, depth: int) -> None:
        if len(self.ratios) != depth:
            raise ValueError(f"merge.ratios has {len(self.ratios)} entries for {depth} blocks")

    @property
    def empty(self) -> bool:
        return not any(self.ratios)

    def tokens_removed(self, shape: ModelShape, image: Size | None) -> tuple[int, list[int]]:
        return 0, merge_counts(shape, self.ratios, image)

    def metric_width(self, block: int, merged: int, embed: int, heads: int, qk: int) -> int:
        del block, embed
        return compared_width(self.metric, heads, qk) if merged else 0

    def merge(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens | None]:
        from raycomp.merging.tokens import match, merge_tokens

        N = x.shape[1]
        r = merged_pairs(self.ratios[block], N - prefix)
        if r == 0:
            return x, tokens
        metric = located(compared(keys, self.metric), self.metric, tokens, grid, prefix)
        return merge_tokens(x, tokens, match(metric, r, prefix), N - r, prefix)

    @classmethod
    def standard(cls, shape: ModelShape, policy: str) -> Self:
        del policy
        return cls(ratios=(0.5,) * shape.depth)

    def at(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        """Merge the same number in every block (the paper's schedule); strength 0 to 1 is r = 0 to N/2."""
        return self._with_counts(even_counts(strength, shape, image), shape, image)

    def schedules(self, shape: ModelShape, image: Size | None) -> dict[str, Callable[[float], Self]]:
        uniform = super().schedules(shape, image)
        return uniform | {"early": lambda strength: self._early(strength, shape, image)}

    def _early(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        """Let merges decay geometrically with depth; above strength 0.5 the decay becomes slower."""
        rows, columns = shape.grid(image)
        first = min(1.0, 2 * strength) * rows * columns / 2
        decay = 0.4 + max(0.0, 2 * strength - 1) * 0.5
        return self._with_counts([round(first * decay**i) for i in range(shape.depth)], shape, image)

    def _with_counts(self, counts: Sequence[int], shape: ModelShape, image: Size | None) -> Self:
        return type(self)(ratios=from_counts(shape, counts, image), metric=self.metric)

    def operating_point(self, shape: ModelShape, image: Size | None) -> str:
        """Describe r: the mean number of merges over the blocks that are not capped."""
        rows, columns = shape.grid(image)
        return f"{self.symbol} = {uncapped_mean(rows * columns, self.ratios):.4g}"

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(f"merge_{block}" for block in range(len(self.ratios)))

    @property
    def searched(self) -> dict[str, float]:
        return dict(zip(self.dimensions, self.ratios, strict=True))

    def with_searched(self, ratios: Mapping[str, float]) -> Self:
        return type(self)(ratios=tuple(ratios.get(name, 0.0) for name in self.dimensions), metric=self.metric)

    def sparing(self, blocks: Collection[int], shape: ModelShape, image: Size | None) -> Self:
        """Merge as many tokens in every other block; one that merged half of its tokens has more of them now."""
        counts, (rows, columns) = merge_counts(shape, self.ratios, image), shape.grid(image)
        most, left, wanted = max(counts, default=0), rows * columns, list[int]()
        for block, count in enumerate(counts):
            capped = 2 * count >= left - 1
            wanted.append(0 if block in blocks else most if capped else count)
            left -= count
        return self._with_counts(wanted, shape, image)


def compared(keys: Tensor, metric: Metric) -> Tensor:
    """Return what pairs are compared by, from keys (B, H, N, qk): keys to be averaged, or joined (B, N, H*qk)."""
    return keys.transpose(1, 2).flatten(2) if metric == "keys" else keys


def located(vectors: Tensor, metric: Metric, tokens: Tokens | None, grid: Grid, prefix: int) -> Tensor:
    """Add the places of tokens to the vectors of `compared`, if the metric has them."""
    from raycomp.merging.tokens import with_places

    return with_places(vectors, tokens, grid, prefix, _NEARNESS) if metric == "near_keys" else vectors


def compared_width(metric: Metric, heads: int, qk: int) -> int:
    """Return the width of the vectors that a metric compares; `qk` is per head."""
    return {"mean_keys": qk, "keys": heads * qk, "near_keys": qk + 4}[metric]


def even_counts(strength: float, shape: ModelShape, image: Size | None) -> list[int]:
    """Return r merges for every block, where strength 0 to 1 is r = 0 to N/2; a fractional r is spread evenly."""
    rows, columns = shape.grid(image)
    r = strength * rows * columns / 2
    return [round((i + 1) * r) - round(i * r) for i in range(shape.depth)]


def merge_counts(shape: ModelShape, ratios: Sequence[float], image: Size | None = None) -> list[int]:
    """Return how many tokens merge in each block: round(ratio * mergeable), at most half of them."""
    rows, columns = shape.grid(image)
    return pair_counts(rows * columns, ratios)


def pair_counts(mergeable: int, ratios: Sequence[float]) -> list[int]:
    """Return how many of `mergeable` tokens merge in each block; see `merge_counts`."""
    counts = []
    for ratio in ratios:
        counts.append(merged_pairs(ratio, mergeable))
        mergeable -= counts[-1]
    return counts


def constant_r(shape: ModelShape, r: int, image: Size | None = None) -> tuple[float, ...]:
    """Return ratios that merge `r` tokens in every block, as long as 2r tokens remain."""
    return from_counts(shape, [r] * shape.depth, image)


def from_counts(shape: ModelShape, counts: Sequence[int], image: Size | None = None) -> tuple[float, ...]:
    """Return ratios that merge these numbers of tokens, capped at half of each block's tokens."""
    rows, columns = shape.grid(image)
    return pair_ratios(rows * columns, counts)


def uncapped_mean(mergeable: int, ratios: Sequence[float]) -> float:
    """Return the mean number of merges over the blocks that are not capped at half of the remaining tokens."""
    uncapped = []
    for count in pair_counts(mergeable, ratios):
        if 2 * count < mergeable - 1:
            uncapped.append(count)
        mergeable -= count
    return sum(uncapped) / max(1, len(uncapped))


def pair_ratios(mergeable: int, counts: Sequence[int]) -> tuple[float, ...]:
    """Return ratios that merge these numbers of `mergeable` tokens; see `from_counts`."""
    ratios = []
    for r in counts:
        merged = min(r, mergeable // 2)
        ratios.append(round(merged / mergeable, RATIO_DIGITS))
        mergeable -= merged
    return tuple(ratios)
