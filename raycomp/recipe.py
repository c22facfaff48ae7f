"""A recipe: which widths to prune to, and which tokens to merge where.

Frozen data with a canonical JSON form; its id is the hash of that form, so two recipes that
build the same model are the same recipe everywhere (Parquet, MLflow, Optuna).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycomp.errors import UserError
from raycomp.shape import Grid, ModelShape, Size

RATIO_DIGITS = 6  # keeps r = round(ratio * tokens) exact up to a million tokens


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockWidths(_Frozen):
    """Widths of one encoder block after pruning; QK and V widths are per head."""

    heads: int = Field(ge=1)
    qk: int = Field(ge=1)
    v: int = Field(ge=1)
    mlp: int = Field(ge=1)


class ToMe(_Frozen):
    """Token merging (Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023)."""

    method: Literal["tome"] = "tome"
    ratios: tuple[Annotated[float, Field(ge=0, le=0.5)], ...]
    """Share of the mergeable tokens that merge, one a block; a block at 0 is left alone."""
    metric: Literal["mean_keys", "keys"] = "mean_keys"
    """Similarity of keys averaged over heads (ToMe), or of all heads' keys side by side (what
    the paper's GFLOPs count, REFERENCE 2)."""

    @field_validator("ratios")
    @classmethod
    def _rounded(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(round(r, RATIO_DIGITS) + 0.0 for r in ratios)


class Algm(_Frozen):
    """Adaptive local-then-global token merging (Norouzi et al., "ALGM", CVPR 2024; REFERENCE 5).

    Two forms: with `threshold`, each image merges what is similar enough; with `windows` and `pairs`,
    all images merge the same counts, which batches can use.
    """

    method: Literal["algm"] = "algm"
    blocks: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """The block that merges windows and the block that merges pairs, counted from 1 as in the paper."""
    threshold: float | None = Field(default=None, ge=-1, le=1)
    """T: a 2x2 window whose mean cosine reaches it becomes one token."""
    windows: float | None = Field(default=None, ge=0, le=1)
    """Share of the windows that become one token."""
    pairs: float | None = Field(default=None, ge=0, le=0.5)
    """Share of the mergeable tokens that merge globally."""

    @field_validator("threshold", "windows", "pairs")
    @classmethod
    def _rounded(cls, value: float | None) -> float | None:
        return None if value is None else round(value, RATIO_DIGITS) + 0.0

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        shares = (self.windows, self.pairs)
        if (self.threshold is None) != (None not in shares) or (self.threshold is not None and shares != (None, None)):
            raise ValueError("algm needs either threshold, -1 to 1, or both windows, 0 to 1, and pairs, 0 to 0.5")
        if self.blocks[0] >= self.blocks[1]:
            raise ValueError(f"algm.blocks is {list(self.blocks)}: windows merge before pairs")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether the number of tokens depends on the image."""
        return self.threshold is not None


class Cts(_Frozen):
    """Content-aware token sharing (Lu et al., "Content-Aware Token Sharing", CVPR 2023; REFERENCE 6)."""

    method: Literal["cts"] = "cts"
    share: float = Field(ge=0, le=0.75)
    """R: share of the patches that sharing removes; each shared 2x2 superpatch saves three of its four."""
    policy: Literal["efficientnet_lite0", "small"] = "efficientnet_lite0"
    """The network that says which superpatches hold one class."""

    @field_validator("share")
    @classmethod
    def _rounded(cls, value: float) -> float:
        return round(value, RATIO_DIGITS) + 0.0


Merge = Annotated[ToMe | Algm | Cts, Field(discriminator="method")]


class Recipe(_Frozen):
    """Prune to these widths, then merge tokens."""

    embed: int = Field(ge=1)
    """Embedding width of the encoder; the decoder follows it."""
    blocks: tuple[BlockWidths, ...]
    merge: Merge | None = None

    @model_validator(mode="after")
    def _merges_in_its_blocks(self) -> Self:
        if isinstance(self.merge, ToMe) and len(self.merge.ratios) != len(self.blocks):
            raise ValueError(f"merge.ratios has {len(self.merge.ratios)} entries for {len(self.blocks)} blocks")
        if isinstance(self.merge, Algm) and self.merge.blocks[1] > len(self.blocks):
            raise ValueError(f"merge.blocks is {list(self.merge.blocks)}; blocks are 1 to {len(self.blocks)}")
        return self

    @field_validator("merge")
    @classmethod
    def _no_empty_merge(cls, merge: Merge | None) -> Merge | None:
        match merge:
            case ToMe(ratios=ratios):
                return merge if any(ratios) else None
            case Algm(threshold=None, windows=0, pairs=0) | Cts(share=0):
                return None
        return merge

    @property
    def ratios(self) -> tuple[float, ...]:
        """ToMe's merge ratio of every block, zeros for a recipe of another method or of none."""
        return self.merge.ratios if isinstance(self.merge, ToMe) else (0.0,) * len(self.blocks)

    @property
    def adaptive(self) -> bool:
        """Whether tokens and GFLOPs depend on the image."""
        return isinstance(self.merge, Algm) and self.merge.adaptive

    def canonical_json(self) -> str:
        """The one JSON text of this recipe: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]

    def family(self, shape: ModelShape) -> str:
        """`dense`, `prune`, a merging method, or `prune+` one: `prune+tome`."""
        pruned = "prune" if self.model_copy(update={"merge": None}) != dense(shape) else ""
        merged = self.merge.method if self.merge is not None else ""
        return "+".join(part for part in (pruned, merged) if part) or "dense"


def dense(shape: ModelShape) -> Recipe:
    """The recipe that changes nothing."""
    block = BlockWidths(heads=shape.heads, qk=shape.head_dim, v=shape.head_dim, mlp=shape.mlp)
    return Recipe(embed=shape.width, blocks=(block,) * shape.depth)


def check_fits(shape: ModelShape, recipe: Recipe) -> None:
    """Raise UserError unless every width of the recipe fits inside the dense model."""
    if len(recipe.blocks) != shape.depth:
        raise UserError(f"recipe: field 'blocks' has {len(recipe.blocks)} entries, the model {shape.depth} blocks")
    limits = {"heads": shape.heads, "qk": shape.head_dim, "v": shape.head_dim, "mlp": shape.mlp}
    if recipe.embed > shape.width:
        raise UserError(f"recipe: field 'embed' is {recipe.embed}; the model has {shape.width} at most")
    for index, block in enumerate(recipe.blocks):
        for field, most in limits.items():
            if (value := getattr(block, field)) > most:
                raise UserError(f"recipe: field 'blocks.{index}.{field}' is {value}; the model has {most} at most")


def algm_blocks(depth: int) -> tuple[int, int]:
    """Where ALGM merges: blocks 1 and 5 of 12, 1 and 7 of 24; other depths in the proportion of 12."""
    return 1, {12: 5, 24: 7}.get(depth, max(2, round(depth * 5 / 12)))


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


def shared_superpatches(share: float, patches: int) -> int:
    """k = ceil(R N / 3) superpatches share one token each (REFERENCE 2), at most all of them."""
    return min(patches // 4, math.ceil(share * patches / 3 - 1e-9))


def rounded_share(share: float, count: int) -> int:
    """How many of `count` a share is."""
    return int(share * count + 0.5)


def tokens_removed(shape: ModelShape, merge: Merge | None, image: Size | None = None) -> tuple[int, list[int]]:
    """How many tokens go before the first block, and how many in each block.

    Raises:
        UserError: for a grid that the method cannot work on.
        ValueError: for adaptive merging, which depends on the image.
    """
    grid = shape.grid(image)
    patches = grid[0] * grid[1]
    removed = [0] * shape.depth
    match merge:
        case ToMe(ratios=ratios):
            return 0, merge_counts(shape, ratios, image)
        case Cts(share=share):
            even_grid(grid, "CTS")
            return 3 * shared_superpatches(share, patches), removed
        case Algm(blocks=(local, globally), windows=float(windows), pairs=float(pairs)):
            even_grid(grid, "ALGM")
            removed[local - 1] = 3 * rounded_share(windows, patches // 4)
            left = patches - removed[local - 1]
            removed[globally - 1] = min(rounded_share(pairs, left), left // 2)
        case Algm():
            raise ValueError("the tokens of adaptive ALGM depend on the image")
    return 0, removed


def merge_counts(shape: ModelShape, ratios: Sequence[float], image: Size | None = None) -> list[int]:
    """How many tokens merge in each block: round(ratio * mergeable), at most half of them."""
    rows, columns = shape.grid(image)
    mergeable, counts = rows * columns, []
    for ratio in ratios:
        counts.append(min(rounded_share(ratio, mergeable), mergeable // 2))
        mergeable -= counts[-1]
    return counts


def constant_r(shape: ModelShape, r: int, image: Size | None = None) -> tuple[float, ...]:
    """Ratios that merge `r` tokens in every block, as long as there are 2r to merge."""
    return from_counts(shape, [r] * shape.depth, image)


def from_counts(shape: ModelShape, counts: Sequence[int], image: Size | None = None) -> tuple[float, ...]:
    """Ratios that merge these numbers of tokens, capped at half of what each block sees."""
    rows, columns = shape.grid(image)
    mergeable, ratios = rows * columns, []
    for r in counts:
        merged = min(r, mergeable // 2)
        ratios.append(round(merged / mergeable, RATIO_DIGITS))
        mergeable -= merged
    return tuple(ratios)
