# SPDX-License-Identifier: Apache-2.0
"""Elastic models: units sorted by saliency, so that every narrower model is a prefix of the full one.

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
    """Return the same function with the most salient units first along every axis; weights are copied."""
    kept = kept_units(model.shape, dense(model.shape), saliency, ranked=True)
    permuted = Segmenter(model.shape, dense(model.shape))
    permuted.load_state_dict(sliced(model, permuted.state_dict().keys(), kept))
    return permuted.eval()


class Nested(nn.Module):
    """View of an elastic model as the model of one recipe: its weights are slices that pass gradients on."""

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
        self._names = frozenset(frame.state_dict())
        self._frame = _PatchScores(frame)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores (B, K, h, w) on the patch grid; see `Segmenter.patch_scores`."""
        cut = cut_along(self._model, self._names, self._cuts)
        weights = {f"model.{name}": weight for name, weight in cut.items()}
        return functional_call(self._frame, weights, (images,))


class _PatchScores(nn.Module):
    """Forward pass of a model without the upsampling, as a module for `functional_call`."""

    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.patch_scores(images)
