# SPDX-License-Identifier: Apache-2.0
"""Read raycomp's own checkpoints, without any rewrite."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from raycomp.config import explain
from raycomp.errors import UserError
from raycomp.models.readers.source import Source, Translation
from raycomp.recipe import Recipe, check_fits, dense
from raycomp.shape import ModelShape

FORMAT = "raycomp-1"


def matches(source: Source) -> bool:
    """Return True for a checkpoint that raycomp wrote."""
    return source.header.get("format") == FORMAT


def shape_and_recipe(path: Path, header: Mapping[str, str]) -> tuple[ModelShape, Recipe]:
    """Return the shape and the recipe in a checkpoint's header.

    Raises:
        UserError: if they cannot be read, or do not fit each other.
    """
    try:
        shape = ModelShape.model_validate_json(header.get("shape", "{}"))
        recipe = Recipe.model_validate_json(header.get("recipe", "{}"))
        check_fits(shape, recipe)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, ModelShape)}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return shape, recipe


def read(source: Source) -> Translation:
    """Return a dense model unchanged.

    Raises:
        UserError: if the model is compressed.
    """
    shape, recipe = shape_and_recipe(source.path, source.header)
    if recipe.id != dense(shape).id:
        raise UserError(f"{source.path}: recipe {recipe.id}, a compressed model; expected a dense one")
    return Translation(family="raycomp", shape=shape, tensors=dict(source.tensors), has_head=True)
