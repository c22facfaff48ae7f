# SPDX-License-Identifier: Apache-2.0
"""The context of a sweep: dense weights, saliencies and evaluation images, as plain arrays.

Arrays travel through Ray's object store without a copy; tensors would be pickled for every actor.
"""

from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import nn

from raycomp.compress import saliency as saliencies
from raycomp.compress.apply import compress
from raycomp.config import SweepConfig
from raycomp.data.evalset import EvalSet
from raycomp.data.samples import NORMALIZATIONS
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.evaluate.sliding import normalised
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter, empty
from raycomp.recipe import Recipe, dense
from raycomp.shape import ModelShape, Size
from raycomp.space import Space

Network = TypeVar("Network", bound=nn.Module)
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Elastic:
    """An elastic model: the dense model trained for many recipes."""

    weights: dict[str, np.ndarray]
    space: Space
    """The space it was trained over."""
    checkpoint: str
    """Fingerprint of its file."""


@dataclass(frozen=True)
class SweepContext:
    """The models and data of a sweep."""

    config: SweepConfig
    shape: ModelShape
    checkpoint: str
    """Fingerprint of the checkpoint file."""
    weights: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] | None
    """Saliencies of the dense model's units; None if no recipe needs them."""
    evalset: EvalSet
    policy_weights: dict[str, np.ndarray] | None = None
    """Weights of the CTS policy network, if needed."""
    policy_checkpoint: str = ""
    """Fingerprint of the policy checkpoint file."""
    elastic: Elastic | None = None
    """The elastic model that recipes are cut from, if the recovery mode is elastic."""
    calibration: np.ndarray | None = None
    """Training images (n, H, W, 3) uint8 for a recovery by reconstruction, and to quantise INT8 recipes."""
    latency: LatencyTable | None = None
    """Latency table of the workers' device, if the search needs one."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields only; every process builds its networks from the arrays."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def window(self) -> Size:
        """Height and width of the model's input."""
        return self.config.data.window_for(self.shape)

    def normalised(
        self, images: np.ndarray, device: torch.device = _CPU, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return uint8 images (B, H, W, 3) as model input (B, 3, H, W) on a device."""
        pixels = NORMALIZATIONS[self.shape.normalization]
        return normalised(torch.from_numpy(images).to(device), pixels.mean, pixels.std, dtype)

    @cached_property
    def policy(self) -> Policy | None:
        """The policy network; it shares memory with the arrays."""
        if self.policy_weights is None:
            return None
        policy = Policy(self.config.policy.kind, self.shape.patch)
        policy.load_state_dict({name: torch.from_numpy(w) for name, w in self.policy_weights.items()}, assign=True)
        return policy.eval()

    @cached_property
    def model(self) -> Segmenter:
        """The dense model; it shares memory with the arrays."""
        return over(self.weights, self.shape)

    @cached_property
    def elastic_model(self) -> Segmenter:
        """The elastic model at full width; it shares memory with the arrays. Requires `elastic`."""
        assert self.elastic is not None
        return over(self.elastic.weights, self.shape)

    @cached_property
    def _copies(self) -> dict[tuple[nn.Module, torch.device], nn.Module]:
        return {}

    def placed(self, network: Network, device: torch.device) -> Network:
        """Return one of the context's networks on a device, copied there once. Do not modify it."""
        if device.type == "cpu":
            return network
        if (network, device) not in self._copies:
            self._copies[network, device] = deepcopy(network).to(device)
        return cast("Network", self._copies[network, device])

    def cut(self, recipe: Recipe, device: torch.device = _CPU) -> Segmenter:
        """Cut a recipe's model on a device, from the elastic model if there is one, unless the recipe is dense.

        Raises:
            UserError: If the recipe does not fit the model, or the elastic model was not trained for it.
        """
        needs_policy = recipe.merge is not None and recipe.merge.needs_policy
        policy = self.placed(self.policy, device) if self.policy is not None and needs_policy else None
        if self.elastic is None or recipe.at("fp32") == dense(self.shape):
            scores = None if self.scores is None else self.saliency
            return compress(self.placed(self.model, device), recipe, scores, policy)
        if problem := self.elastic.space.outside(recipe):
            raise UserError(f"recipe: outside the space the elastic model was trained over: {problem}")
        return compress(self.placed(self.elastic_model, device), recipe, None, policy)

    @property
    def fingerprint(self) -> str:
        """Fingerprints of the model files that measurements depend on."""
        return self.checkpoint if self.elastic is None else f"{self.checkpoint} {self.elastic.checkpoint}"

    @cached_property
    def saliency(self) -> saliencies.Saliency:
        assert self.scores is not None
        return {name: torch.from_numpy(score) for name, score in self.scores.items()}


def over(weights: dict[str, np.ndarray], shape: ModelShape) -> Segmenter:
    """Build a dense model that shares memory with the arrays, which may be read-only."""
    model = empty(shape, dense(shape))
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()}, assign=True)
    return model.eval()
