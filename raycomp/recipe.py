"""A recipe: which widths to prune to, and what share of tokens to merge in each block.

Frozen data with a canonical JSON form; its id is the hash of that form, so two recipes that
build the same model are the same recipe everywhere (Parquet, MLflow, Optuna).
"""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycomp.shape import ModelShape, Size

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


class Recipe(_Frozen):
    """Prune to these widths, then merge these shares of the tokens."""

    embed: int = Field(ge=1)
    """Embedding width of the encoder; the decoder follows it."""
    blocks: tuple[BlockWidths, ...]
    merge: ToMe | None = None

    @model_validator(mode="after")
    def _one_ratio_a_block(self) -> Self:
        if self.merge is not None and len(self.merge.ratios) != len(self.blocks):
            raise ValueError(f"merge.ratios has {len(self.merge.ratios)} entries for {len(self.blocks)} blocks")
        return self

    @field_validator("merge")
    @classmethod
    def _no_empty_merge(cls, merge: ToMe | None) -> ToMe | None:
        return merge if merge is not None and any(merge.ratios) else None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Merge ratio of every block, zeros where nothing merges."""
        return self.merge.ratios if self.merge is not None else (0.0,) * len(self.blocks)

    def canonical_json(self) -> str:
        """The one JSON text of this recipe: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]

    def family(self, shape: ModelShape) -> str:
        """`dense`, `tome`, `prune` or `prune+tome`."""
        pruned = "prune" if self.model_copy(update={"merge": None}) != dense(shape) else ""
        merged = self.merge.method if self.merge is not None else ""
        return "+".join(part for part in (pruned, merged) if part) or "dense"


def dense(shape: ModelShape) -> Recipe:
    """The recipe that changes nothing."""
    block = BlockWidths(heads=shape.heads, qk=shape.head_dim, v=shape.head_dim, mlp=shape.mlp)
    return Recipe(embed=shape.width, blocks=(block,) * shape.depth)


def merge_counts(shape: ModelShape, ratios: Sequence[float], image: Size | None = None) -> list[int]:
    """How many tokens merge in each block: round(ratio * mergeable), at most half of them."""
    rows, columns = shape.grid(image)
    mergeable, counts = rows * columns, []
    for ratio in ratios:
        counts.append(min(int(ratio * mergeable + 0.5), mergeable // 2))
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
