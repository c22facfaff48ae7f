"""Prune, then merge: the compressed model of a recipe."""

from copy import deepcopy

from torch import nn

from raycomp.compress.pruning import prune
from raycomp.compress.saliency import Saliency
from raycomp.errors import UserError
from raycomp.merging.tokens import TokenSharing
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe


def compress(model: Segmenter, recipe: Recipe, saliency: Saliency | None, policy: nn.Module | None = None) -> Segmenter:
    """Build the model of a recipe from a dense one, on its device; weights that nothing cuts are shared, not copied.

    Args:
        saliency: of the model's units; None for an elastic model, whose units are in order.
        policy: the policy network on the same device, for a recipe that shares tokens (CTS).

    Raises:
        UserError: for a recipe that does not fit the model.
    """
    compressed = prune(model, recipe, saliency)
    let_merge(compressed, recipe, policy)
    return compressed


def let_merge(model: Segmenter, recipe: Recipe, policy: nn.Module | None) -> None:
    """Let a model merge everywhere as a recipe of its own widths says; a policy network is copied into it.

    Raises:
        UserError: for a method that needs a policy network where there is none.
    """
    if recipe.merge is not None and recipe.merge.needs_policy:
        if policy is None:
            method = recipe.merge.method
            raise UserError(
                f"recipe: merge.method {method} needs policy.checkpoint: train one with raycomp train --policy"
            )
        model.encoder.sharer = TokenSharing(recipe.merge, deepcopy(policy), model.shape.prefix).eval()
    remerge(model, recipe)


def remerge(model: Segmenter, recipe: Recipe) -> None:
    """Let a model merge inside its blocks as a recipe of its own widths says."""
    model.recipe, model.encoder.merger = recipe, recipe.merge
