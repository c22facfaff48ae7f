"""Elastic models: units in order of saliency, so that every narrower model is a prefix of the full one.

Nested widths as in Yu & Huang, "Universally Slimmable Networks and Improved Training Techniques",
ICCV 2019, ranked by NViT's saliency (REFERENCE 7). `prune` cuts an elastic model without scores.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from raycomp.compress.apply import remerge
from raycomp.compress.pruning import cut_along, kept_units, sliced
from raycomp.compress.saliency import Saliency
from raycomp.compress.slices import first_units
from raycomp.errors import UserError
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, check_fits, dense


def ordered(model: Segmenter, saliency: Saliency) -> Segmenter:
    """The same function with the most salient units first along every axis; the weights are copies."""
    kept = kept_units(model.shape, dense(model.shape), saliency, ranked=True)
    same = Segmenter(model.shape, dense(model.shape))
    same.load_state_dict(sliced(model, kept))
    return same.eval()


class Nested(nn.Module):
    """An elastic model seen as the model of one recipe: its weights are slices, trained through."""

    def __init__(self, model: Segmenter, recipe: Recipe) -> None:
        super().__init__()
        check_fits(model.shape, recipe)
        if recipe.merge is not None and recipe.merge.needs_policy:
            raise UserError(f"space.merge {recipe.merge.method}: an elastic model is trained without a policy network")
        self._model, self._cuts = model, first_units(model, recipe)
        with torch.device("meta"):
            frame = Segmenter(model.shape, recipe).train(model.training)
        frame.regularise(*model.regularisation)
        remerge(frame, recipe)
        self._frame = _PatchScores(frame)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (B, K, h, w) on the patch grid; see `Segmenter.patch_scores`."""
        weights = {f"model.{name}": weight for name, weight in cut_along(self._model, self._cuts).items()}
        return functional_call(self._frame, weights, (images,))


class _PatchScores(nn.Module):
    """What `functional_call` calls: a model's forward pass short of the upsampling."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.patch_scores(images)
