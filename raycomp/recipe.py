"""A recipe: which widths to prune to, and which tokens to merge where.

Frozen data with a canonical JSON form; its id is the hash of that form, so two recipes that
build the same model are the same recipe everywhere (Parquet, MLflow, Optuna).
"""

import hashlib
import json
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycomp.errors import UserError
from raycomp.merging import Merge, MergeMethod
from raycomp.shape import ModelShape, Size


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockWidths(_Frozen):
    """Widths of one encoder block after pruning; QK and V widths are per head."""

    heads: int = Field(ge=1)
    qk: int = Field(ge=1)
    v: int = Field(ge=1)
    mlp: int = Field(ge=1)


class Recipe(_Frozen):
    """Prune to these widths, then merge tokens."""

    embed: int = Field(ge=1)
    """Embedding width of the encoder; the decoder follows it."""
    blocks: tuple[BlockWidths, ...]
    merge: Merge | None = None

    @model_validator(mode="after")
    def _merges_in_its_blocks(self) -> Self:
        if self.merge is not None:
            self.merge.check_depth(len(self.blocks))
        return self

    @field_validator("merge")
    @classmethod
    def _no_empty_merge(cls, merge: Merge | None) -> Merge | None:
        return None if merge is None or merge.empty else merge

    @property
    def ratios(self) -> tuple[float, ...]:
        """Merge ratio of each block, 0 to 0.5; zeros without merging, or where it depends on the image."""
        searched = {} if self.merge is None else self.merge.searched
        return tuple(searched.get(f"merge_{block}", 0.0) for block in range(len(self.blocks)))

    @property
    def adaptive(self) -> bool:
        """Whether tokens and GFLOPs depend on the image."""
        return self.merge is not None and self.merge.adaptive

    def merging(self, merge: MergeMethod | None) -> "Recipe":
        """The same widths with other merging."""
        return Recipe.model_validate({"embed": self.embed, "blocks": self.blocks, "merge": merge})

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


def tokens_removed(shape: ModelShape, merge: MergeMethod | None, image: Size | None = None) -> tuple[int, list[int]]:
    """How many tokens go before the first block, and how many in each block.

    Raises:
        UserError: for a grid that the method cannot work on.
        ValueError: for adaptive merging, which depends on the image.
    """
    return (0, [0] * shape.depth) if merge is None else merge.tokens_removed(shape, image)
