# SPDX-License-Identifier: Apache-2.0
"""Build the compressed model of a recipe: prune, then merge."""

from copy import deepcopy

from torch import nn

from raycomp.compress.pruning import prune
from raycomp.compress.saliency import Saliency
from raycomp.errors import UserError
from raycomp.merging.tokens import TokenSharing
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe


def compress(model: Segmenter, recipe: Recipe, saliency: Saliency | None, policy: nn.Module | None = None) -> Segmenter:
    """Build a recipe's model from the dense model, on its device; uncut weights are shared, not copied.

    Args:
        saliency: scores of the model's units; None for an elastic model, whose units are sorted by saliency.
        policy: the policy network, on the same device, for a recipe that shares tokens (CTS).

    Raises:
        UserError: if the recipe does not fit the model.
    """
    compressed = prune(model, recipe, saliency)
    let_merge(compressed, recipe, policy)
    return compressed


def let_merge(model: Segmenter, recipe: Recipe, policy: nn.Module | None) -> None:
    """Set a model to merge as a recipe of the same widths says; a policy network is copied into the model.

    Raises:
        UserError: if the method needs a policy network and there is none.
    """
    if recipe.merge is not None and recipe.merge.needs_policy:
        if policy is None:
            method = recipe.merge.method
            raise UserError(
                f"recipe: merge.method {method} needs policy.checkpoint; train one with raycomp train --policy"
            )
        model.encoder.sharer = TokenSharing(recipe.merge, deepcopy(policy), model.shape.prefix).eval()
    remerge(model, recipe)


def remerge(model: Segmenter, recipe: Recipe) -> None:
    """Set how a model merges inside its blocks, by a recipe of the same widths."""
    model.recipe, model.encoder.merger = recipe, recipe.merge
