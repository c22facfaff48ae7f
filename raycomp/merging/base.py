# SPDX-License-Identifier: Apache-2.0
"""Base class of all merge methods, and the rounding that they share.

Legend: B batch, N tokens, E embedding width, H heads, K classes, h w grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

from raycomp.errors import UserError
from raycomp.shape import Grid, ModelShape, Size

if TYPE_CHECKING:  # counting and searching need no torch
    from torch import Tensor, nn

    from raycomp.merging.tokens import Tokens

RATIO_DIGITS = 6  # keeps r = round(ratio * tokens) exact up to a million tokens
ROUNDED = AfterValidator(lambda value: round(value, RATIO_DIGITS) + 0.0)
"""Round a share, so that recipes that merge alike share an id; also turn -0.0 into 0.0."""


class MergeMethod(BaseModel, ABC):
    """Frozen settings of one method. Recipe ids hash their JSON form, so fields and defaults never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: ClassVar[str]
    """Name in tables, figures and labels: `ToMe`."""
    symbol: ClassVar[str]
    """The paper's symbol for the strength: `r`."""
    proportional: ClassVar[bool] = False
    """Whether attention weights a merged token by the number of patches it represents."""
    compares_keys: ClassVar[bool] = False
    """Whether a block that merges needs the keys of its own attention."""
    merges_windows: ClassVar[bool] = False
    """Whether the first block merges windows before its pairs, by a search dimension `merge_windows_0`."""
    needs_policy: ClassVar[bool] = False
    """Whether a policy network decides where tokens merge; if so, `embed` replaces the patch embedding."""
    revision: ClassVar[str] = ""
    """Changes when a release merges other tokens at the same settings, so that benchmarks match their cost again."""

    method: str

    @property
    def note(self) -> str:
        """What merges besides the merge ratio of each block, in a few words; empty for nothing."""
        return ""

    # Validity

    def check_depth(self, depth: int) -> None:
        """Raise ValueError unless the settings fit an encoder of `depth` blocks."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether nothing merges on any grid; a recipe then stores no merging."""

    @property
    def simplest(self) -> MergeMethod:
        """The settings by which a recipe stores this merging; of another method if that merges the same tokens."""
        return self

    @property
    def adaptive(self) -> bool:
        """Whether the number of tokens depends on the image."""
        return False

    @property
    def policy_kind(self) -> str | None:
        """Kind of the policy network that the method needs, or None."""
        return None

    # Cost

    @abstractmethod
    def tokens_removed(self, shape: ModelShape, image: Size | None) -> tuple[int, list[int]]:
        """Return how many tokens are removed before the first block, and in each block.

        Raises:
            UserError: if the method cannot work on the grid.
            ValueError: for adaptive merging, which depends on the image.
        """

    def metric_width(self, block: int, merged: int, embed: int, heads: int, qk: int) -> int:
        """Return the width of the vectors that a block compares to merge pairs; 0 if it compares none.

        Args:
            merged: number of tokens that the block removes, after those of `removed_before_pairs`.
            embed, heads, qk: widths of the block; `qk` is per head.
        """
        del block, merged, embed, heads, qk
        return 0

    def removed_before_pairs(self, block: int, patches: int) -> int:
        """Return how many tokens a block removes before it compares the others to merge pairs.

        Args:
            patches: number of tokens before the block merges, without special tokens.
        """
        del block, patches
        return 0

    def extra_cost(self, patch: int, image: Size) -> int:
        """Return the multiply-adds of the method's own networks on one image of height x width pixels."""
        del patch, image
        return 0

    # In a model

    def merge(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens | None]:
        """Merge tokens in a block, between attention and MLP.

        Args:
            block: counted from 0.
            x: (B, N, E), with `prefix` special tokens in front.
            keys: (B, H, N, qk), from the block's attention; no heads if the block has none.
            tokens: record of earlier merges, or None.

        Returns:
            The remaining tokens (B, N - merged, E) and their record.
        """
        del block, keys, grid, prefix
        return x, tokens

    def embed(
        self, images: Tensor, logits: Tensor, projection: nn.Conv2d, position: Tensor, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens]:
        """Embed images with fewer tokens than patches; only for methods that need a policy.

        Args:
            images: (B, 3, h*p, w*p).
            logits: (B, 2, h/2, w/2), from the policy network.
            projection: the patch embedding, stride p.
            position: (1, h*w, E).

        Returns:
            Tokens (B, N, E) without special tokens, and their record, which includes those.
        """
        raise NotImplementedError

    # Strength: one parameter, for matching a cost

    @classmethod
    @abstractmethod
    def standard(cls, shape: ModelShape, policy: str) -> Self:
        """Return the settings that the paper uses for a model, at any non-zero strength.

        Args:
            policy: kind of the policy network, for a method that needs one.
        """

    @abstractmethod
    def at(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        """Return the same settings at another strength, 0 (none) to 1 (maximum); cost falls as strength rises."""

    def schedules(self, shape: ModelShape, image: Size | None) -> dict[str, Callable[[float], Self]]:
        """Return fixed-count settings by strength, which start a search; `uniform` is the baseline."""
        return {"uniform": lambda strength: self.at(strength, shape, image)}

    @abstractmethod
    def operating_point(self, shape: ModelShape, image: Size | None) -> str:
        """Describe the strength in the paper's terms: `r = 9.5`."""

    # Search: each dimension is a merge ratio, from 0 (none) to 0.5 (the maximum that the method can merge there)

    @property
    @abstractmethod
    def dimensions(self) -> tuple[str, ...]:
        """Names of the search dimensions, which start with `merge`: `merge_I` merges in block I, counted from 0."""

    @property
    @abstractmethod
    def searched(self) -> dict[str, float]:
        """These settings as one merge ratio per dimension; empty for adaptive merging."""

    @abstractmethod
    def with_searched(self, ratios: Mapping[str, float]) -> Self:
        """Return settings with the given merge ratios, 0 for omitted dimensions; other fields are kept."""

    def expressed(self, merge: MergeMethod | None) -> Self | None:
        """Return settings of this method that merge the same tokens as `merge`, or None if there are none."""
        return merge if isinstance(merge, type(self)) else None

    def without(self, keyless: Collection[int]) -> Self:
        """Return the same settings without merging in blocks whose keys are needed but missing, counted from 0."""
        silent = {f"merge_{block}" for block in keyless} if self.compares_keys else set[str]()
        if not any(ratio for name, ratio in self.searched.items() if name in silent):
            return self
        return self.with_searched({name: ratio for name, ratio in self.searched.items() if name not in silent})

    def sparing(self, blocks: Collection[int], shape: ModelShape, image: Size | None) -> Self:
        """Return the same strength without merging in some blocks, counted from 0."""
        del shape, image
        spared = {f"{kind}_{block}" for kind in ("merge", "merge_windows") for block in blocks}
        return self.with_searched({name: ratio for name, ratio in self.searched.items() if name not in spared})

    # Adaptive merging, measured on images

    def last_block(self, depth: int) -> int:
        """Return the last block that may merge, counted from 1."""
        return depth

    def fixed(self, tokens: Sequence[float], patches: int) -> MergeMethod:
        """Convert adaptive settings to fixed counts that leave the given number of tokens after each block.

        Args:
            tokens: means over images, without special tokens.
            patches: number of tokens before merging.
        """
        del tokens, patches
        return self


def even_grid(grid: Grid, method: str, patch: int | None = None) -> Grid:
    """Return the grid if 2x2 windows tile it.

    Args:
        patch: side of a patch in pixels, for an error that names image sizes.

    Raises:
        UserError: if the number of rows or columns is odd.
    """
    if grid[0] % 2 or grid[1] % 2:
        sizes = [tuple((side + step * (side % 2)) * (patch or 1) for side in grid) for step in (-1, 1)]
        smaller, larger = (f"{rows}x{columns}" for rows, columns in sizes)
        what = "grids" if patch is None else "image sizes"
        raise UserError(
            f"{method} works on 2x2 patches, so the grid needs even sides: it is {grid[0]}x{grid[1]}; "
            f"nearest {what}: {smaller} or {larger}"
        )
    return grid


def rounded_share(share: float, count: int) -> int:
    """Return a share of `count`, rounded half up."""
    return int(share * count + 0.5)


def merged_pairs(share: float, mergeable: int) -> int:
    """Return how many pairs merge: a share of the `mergeable` tokens, at most half of them."""
    return min(rounded_share(share, mergeable), mergeable // 2)
