"""Prune, then merge: the compressed model of a recipe."""

from raycomp.compress.prune import prune
from raycomp.compress.saliency import Saliency
from raycomp.compress.tome import ToMeMerger
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe


def compress(model: Segmenter, recipe: Recipe, saliency: Saliency) -> Segmenter:
    """Build the model of a recipe from a dense one; weights that nothing cuts are shared, not copied.

    Raises:
        UserError: for a recipe that does not fit the model.
    """
    compressed = prune(model, recipe, saliency)
    if recipe.merge is not None:
        compressed.encoder.merger = ToMeMerger(recipe.merge, model.shape.prefix)
    return compressed
