"""Prune, then merge: the compressed model of a recipe."""

from copy import deepcopy

from torch import nn

from raycomp.compress.algm import AlgmMerger
from raycomp.compress.cts import Sharing
from raycomp.compress.prune import prune
from raycomp.compress.saliency import Saliency
from raycomp.compress.tome import ToMeMerger
from raycomp.errors import UserError
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Algm, Cts, Recipe, ToMe


def compress(model: Segmenter, recipe: Recipe, saliency: Saliency | None, policy: nn.Module | None = None) -> Segmenter:
    """Build the model of a recipe from a dense one, on its device; weights that nothing cuts are shared, not copied.

    Args:
        saliency: of the model's units; None for an elastic model, whose units are in order.
        policy: the policy network on the same device, for a recipe that shares tokens (CTS).

    Raises:
        UserError: for a recipe that does not fit the model.
    """
    compressed = prune(model, recipe, saliency)
    if isinstance(recipe.merge, Cts):
        if policy is None:
            raise UserError("recipe: merge.method cts needs policy.checkpoint: train one with raycomp train --policy")
        compressed.encoder.sharer = Sharing(recipe.merge, deepcopy(policy), model.shape.prefix).eval()
    remerge(compressed, recipe)
    return compressed


def remerge(model: Segmenter, recipe: Recipe) -> None:
    """Let a model merge inside its blocks as a recipe of its own widths says."""
    model.recipe, prefix = recipe, model.shape.prefix
    match recipe.merge:
        case ToMe() as tome:
            model.encoder.merger = ToMeMerger(tome, prefix)
        case Algm() as algm:
            model.encoder.merger = AlgmMerger(algm, prefix)
        case _:
            model.encoder.merger = None
