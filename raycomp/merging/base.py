"""What a merge method provides: the base class of all methods, and the rounding that they share.

Legend: B batch, N tokens, E embedding width, H heads, K classes, h w grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

from raycomp.errors import UserError
from raycomp.shape import Grid, ModelShape, Size

if TYPE_CHECKING:  # counting and searching do without torch
    from torch import Tensor, nn

    from raycomp.merging.tokens import Tokens

RATIO_DIGITS = 6  # keeps r = round(ratio * tokens) exact up to a million tokens
ROUNDED = AfterValidator(lambda value: round(value, RATIO_DIGITS) + 0.0)
"""Rounds a share, so that recipes which merge alike have one id; also turns -0.0 into 0.0."""


class MergeMethod(BaseModel, ABC):
    """Frozen settings of one method. A recipe's id covers their JSON form: fields and defaults never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: ClassVar[str]
    """Name in tables, figures and labels: `ToMe`."""
    symbol: ClassVar[str]
    """The paper's letter for the strength: `r`."""
    proportional: ClassVar[bool] = False
    """Whether attention weighs a merged token by the patches it stands for."""
    uniform_step: ClassVar[bool] = False
    """Whether all blocks merge their shares by the same step, whose time a latency table then interpolates."""
    needs_policy: ClassVar[bool] = False
    """Whether a policy network says where tokens merge; then `embed` replaces the patch embedding."""
    revision: ClassVar[str] = ""
    """Changes when a release merges other tokens at the same settings, so that benchmarks match their cost anew."""

    method: str

    # Validity

    def check_depth(self, depth: int) -> None:
        """Raise ValueError unless the settings fit an encoder of `depth` blocks."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether nothing merges, at any grid; a recipe then has no merging at all."""

    @property
    def adaptive(self) -> bool:
        """Whether the number of tokens depends on the image."""
        return False

    @property
    def policy_kind(self) -> str | None:
        """Which policy network the method needs; None for none."""
        return None

    # Cost

    @abstractmethod
    def tokens_removed(self, shape: ModelShape, image: Size | None) -> tuple[int, list[int]]:
        """How many tokens go before the first block, and how many in each block.

        Raises:
            UserError: for a grid that the method cannot work on.
            ValueError: for adaptive merging, which depends on the image.
        """

    def metric_width(self, block: int, merged: int, embed: int, heads: int, qk: int) -> int:
        """Width of the vectors that a block compares to merge pairs; 0 where it compares none.

        Args:
            merged: tokens that the block removes.
            embed: the block's embedding width, and so on; `qk` is per head.
        """
        del block, merged, embed, heads, qk
        return 0

    def extra_cost(self, patch: int, image: Size) -> int:
        """Multiply-adds of networks of its own on one image of height x width pixels."""
        del patch, image
        return 0

    # In a model

    def merge(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens | None]:
        """Merge tokens of a block, between its attention and its MLP.

        Args:
            block: counted from 0.
            x: (B, N, E), `prefix` special tokens in front.
            keys: (B, H, N, qk) of the block's attention.
            tokens: where the patches went so far; None where none merged.

        Returns:
            Tokens (B, fewer, E) and their record.
        """
        del block, keys, grid, prefix
        return x, tokens

    def embed(
        self, images: Tensor, logits: Tensor, projection: nn.Conv2d, position: Tensor, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens]:
        """Embed images with fewer tokens than patches; for a method that needs a policy.

        Args:
            images: (B, 3, h*p, w*p).
            logits: (B, 2, h/2, w/2) of the policy network.
            projection: the patch embedding, stride p.
            position: (1, h*w, E).

        Returns:
            Tokens (B, N, E) without special ones, and their record, which counts those in.
        """
        raise NotImplementedError

    # Strength: one knob, for matching a cost

    @classmethod
    @abstractmethod
    def standard(cls, shape: ModelShape, policy: str) -> Self:
        """The method as its paper sets it for a model, at any strength but none.

        Args:
            policy: kind of the policy network, for a method that needs one.
        """

    @abstractmethod
    def at(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        """The same settings at another strength, 0 (nothing) to 1 (the most); the cost falls with it."""

    def schedules(self, shape: ModelShape, image: Size | None) -> dict[str, Callable[[float], Self]]:
        """Settings of fixed counts by strength, which a search starts from; `uniform` is its baseline."""
        return {"uniform": lambda strength: self.at(strength, shape, image)}

    @abstractmethod
    def operating_point(self, shape: ModelShape, image: Size | None) -> str:
        """The strength in the paper's terms: `r = 9.5`."""

    # Search: each dimension is a merge ratio, from 0 for nothing to 0.5 for the most that the method can merge there

    @property
    @abstractmethod
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions of a search space: `merge_I` for what merges in block I, counted from 0, and `merge`
        for what merges before the first."""

    @property
    @abstractmethod
    def searched(self) -> dict[str, float]:
        """These settings as a merge ratio for each dimension; empty for adaptive merging."""

    @abstractmethod
    def with_searched(self, ratios: Mapping[str, float]) -> Self:
        """The settings of a merge ratio for each dimension, 0 where it is left out; all else stays as it is here."""

    # Adaptive merging, measured on images

    def last_block(self, depth: int) -> int:
        """The last block that may merge, counted from 1."""
        return depth

    def fixed(self, tokens: Sequence[float], patches: int) -> MergeMethod:
        """Settings of fixed counts, for adaptive ones: they merge what leaves so many tokens after each block.

        Args:
            tokens: means over images, special tokens left out.
            patches: tokens before merging.
        """
        del tokens, patches
        return self


def even_grid(grid: Grid, method: str) -> Grid:
    """The grid, if 2x2 windows tile it.

    Raises:
        UserError: for an odd number of rows or columns.
    """
    if grid[0] % 2 or grid[1] % 2:
        rows, columns = (side + side % 2 for side in grid)
        raise UserError(
            f"{method} works on 2x2 patches, so the grid needs even sides: it is {grid[0]}x{grid[1]}; "
            f"nearest allowed: {rows}x{columns}"
        )
    return grid


def rounded_share(share: float, count: int) -> int:
    """How many of `count` a share is."""
    return int(share * count + 0.5)


def merged_pairs(share: float, mergeable: int) -> int:
    """How many pairs of `mergeable` tokens merge: a share of the tokens, at most half of them."""
    return min(rounded_share(share, mergeable), mergeable // 2)
