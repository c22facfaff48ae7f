# SPDX-License-Identifier: Apache-2.0
"""A recipe: the widths to prune to, how tokens merge, and the precision of linear maps.

Recipes are frozen data. Their id hashes their canonical JSON form, so recipes that build the same
model are identical everywhere (Parquet, MLflow, Optuna).
"""

import hashlib
import json
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from raycomp.errors import UserError
from raycomp.merging import Merge, MergeMethod
from raycomp.shape import ModelShape, Size


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlockWidths(_Frozen):
    """Widths of one encoder block after pruning; QK and V widths are per head.

    A block may lack its attention (heads, QK and V are 0) or its MLP (0), each with its LayerNorm.
    """

    heads: int = Field(ge=0)
    qk: int = Field(ge=0)
    v: int = Field(ge=0)
    mlp: int = Field(ge=0)

    @model_validator(mode="after")
    def _one_form_without_attention(self) -> Self:
        if not (self.heads and self.qk and self.v) and (self.heads or self.qk or self.v):
            given = f"heads {self.heads}, qk {self.qk}, v {self.v}"
            raise ValueError(f"{given}: a block without attention has 0 of all three, any other at least 1")
        return self


RecipePrecision = Literal["fp32", "int8"]
"""Numbers that linear maps multiply: float32, or 8-bit integers (`raycomp.compress.quantised`)."""
PRECISIONS: tuple[RecipePrecision, ...] = get_args(RecipePrecision)


class Recipe(_Frozen):
    """Widths to prune to, how to merge tokens afterwards, and the precision to compute in."""

    embed: int = Field(ge=1)
    """Embedding width of the encoder; the decoder follows it."""
    blocks: tuple[BlockWidths, ...]
    merge: Merge | None = None
    precision: RecipePrecision = "fp32"

    @model_serializer(mode="wrap")
    def _without_float32(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the precision of float32 recipes, whose ids are older than the field."""
        stored: dict[str, Any] = handler(self)
        if self.precision == "fp32":
            stored.pop("precision", None)
        return stored

    @model_validator(mode="after")
    def _merges_in_its_blocks(self) -> Self:
        if self.merge is not None:
            self.merge.check_depth(len(self.blocks))
            if self.keyless and self.merge.without(self.keyless) != self.merge:
                blocks = ", ".join(map(str, sorted(self.keyless)))
                raise ValueError(
                    f"merging by {self.merge.title} compares keys, which blocks without attention ({blocks}) do not "
                    "have: nothing can merge there"
                )
        return self

    @field_validator("merge")
    @classmethod
    def _one_form_of_merging(cls, merge: Merge | None) -> MergeMethod | None:
        return None if merge is None or merge.empty else merge.simplest

    @property
    def keyless(self) -> frozenset[int]:
        """Blocks without attention, counted from 0."""
        return frozenset(index for index, block in enumerate(self.blocks) if not block.heads)

    @property
    def ratios(self) -> tuple[float, ...]:
        """Merge ratio of each block, 0 to 0.5; zeros without merging or with adaptive merging."""
        searched = {} if self.merge is None else self.merge.searched
        return tuple(searched.get(f"merge_{block}", 0.0) for block in range(len(self.blocks)))

    @property
    def further_ratios(self) -> dict[str, float]:
        """Merge ratios of search dimensions other than a ratio per block: `merge` of CTS, or `merge_windows_0`."""
        searched = {} if self.merge is None else self.merge.searched
        by_block = {f"merge_{block}" for block in range(len(self.blocks))}
        return {name: ratio for name, ratio in searched.items() if name not in by_block}

    @property
    def adaptive(self) -> bool:
        """Whether tokens and GFLOPs depend on the image."""
        return self.merge is not None and self.merge.adaptive

    def merging(self, merge: MergeMethod | None) -> "Recipe":
        """Return the same widths with other merging, left out where a block lacks the keys to compare."""
        merge = None if merge is None else merge.without(self.keyless)
        return Recipe.model_validate(
            {"embed": self.embed, "blocks": self.blocks, "merge": merge, "precision": self.precision}
        )

    def at(self, precision: RecipePrecision) -> "Recipe":
        """Return the same widths and merging in a precision."""
        return self if precision == self.precision else self.model_copy(update={"precision": precision})

    def canonical_json(self) -> str:
        """Return the canonical JSON of this recipe: sorted keys, no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """First twelve hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]

    def family(self, shape: ModelShape) -> str:
        """Return what a recipe does, joined by `+`: `prune`, a merge method, `int8`; `dense` if nothing.

        For example, `prune+tome`, `prune+tome+int8`, or `int8` for the dense model in INT8.
        """
        pruned = "prune" if self.at("fp32").model_copy(update={"merge": None}) != dense(shape) else ""
        merged = self.merge.method if self.merge is not None else ""
        precision = "" if self.precision == "fp32" else self.precision
        return "+".join(part for part in (pruned, merged, precision) if part) or "dense"


def dense(shape: ModelShape) -> Recipe:
    """Return the recipe of the uncompressed model, in float32."""
    block = BlockWidths(heads=shape.heads, qk=shape.head_dim, v=shape.head_dim, mlp=shape.mlp)
    return Recipe(embed=shape.width, blocks=(block,) * shape.depth)


def check_fits(shape: ModelShape, recipe: Recipe) -> None:
    """Raise UserError unless every width of the recipe fits inside the dense model."""
    if len(recipe.blocks) != shape.depth:
        raise UserError(f"recipe: field 'blocks' has {len(recipe.blocks)} entries, the model {shape.depth} blocks")
    limits = {"heads": shape.heads, "qk": shape.head_dim, "v": shape.head_dim, "mlp": shape.mlp}
    if recipe.embed > shape.width:
        raise UserError(f"recipe: field 'embed' is {recipe.embed}; the model has {shape.width}")
    for index, block in enumerate(recipe.blocks):
        for field, limit in limits.items():
            if (value := getattr(block, field)) > limit:
                raise UserError(f"recipe: field 'blocks.{index}.{field}' is {value}; the model has {limit}")
        if shape.position == "rotary" and block.qk % 2:
            raise UserError(f"recipe: field 'blocks.{index}.qk' is {block.qk}; rotary position needs an even width")


def tokens_removed(shape: ModelShape, merge: MergeMethod | None, image: Size | None = None) -> tuple[int, list[int]]:
    """Return how many tokens are removed before the first block, and in each block.

    Raises:
        UserError: if the method cannot work on the grid.
        ValueError: for adaptive merging, which depends on the image.
    """
    return (0, [0] * shape.depth) if merge is None else merge.tokens_removed(shape, image)
