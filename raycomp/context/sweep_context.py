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
from raycomp.errors import UserError
from raycomp.evaluate.latency_table import LatencyTable
from raycomp.models.policy import Policy
from raycomp.models.segmenter import Segmenter, empty
from raycomp.recipe import Recipe, dense
from raycomp.shape import ModelShape
from raycomp.space import Space

Network = TypeVar("Network", bound=nn.Module)


_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Elastic:
    """The dense model trained for many recipes."""

    weights: dict[str, np.ndarray]
    space: Space
    """The recipes it was trained over."""
    checkpoint: str
    """Fingerprint of its file."""


@dataclass(frozen=True)
class SweepContext:
    """The dense model and the data of a sweep."""

    config: SweepConfig
    shape: ModelShape
    checkpoint: str
    """Fingerprint of the checkpoint file."""
    weights: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] | None
    """Saliency of every unit of the dense model; None where no recipe is cut by it."""
    evalset: EvalSet
    policy_weights: dict[str, np.ndarray] | None = None
    """Of the policy network of CTS, where one is wanted."""
    policy_checkpoint: str = ""
    """Fingerprint of its file."""
    elastic: "Elastic | None" = None
    """The elastic model that recipes are cut from, where the recovery says so."""
    calibration: np.ndarray | None = None
    """Training images (n, H, W, 3) uint8 that the recovery refits cut models on, where it does."""
    latency: LatencyTable | None = None
    """Of this device, where the sweep limits time."""

    def __getstate__(self) -> dict[str, Any]:
        """The arrays alone: every process makes its own networks over them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def policy(self) -> Policy | None:
        """The policy network, over these same arrays."""
        if self.policy_weights is None:
            return None
        policy = Policy(self.config.policy.kind, self.shape.patch)
        policy.load_state_dict({name: torch.from_numpy(w) for name, w in self.policy_weights.items()}, assign=True)
        return policy.eval()

    @cached_property
    def model(self) -> Segmenter:
        """The dense model, over these same arrays."""
        return over(self.weights, self.shape)

    @cached_property
    def elastic_model(self) -> Segmenter:
        """The elastic model at full width, over these same arrays; where there is one."""
        assert self.elastic is not None
        return over(self.elastic.weights, self.shape)

    @cached_property
    def _elsewhere(self) -> dict[tuple[nn.Module, torch.device], nn.Module]:
        return {}

    def placed(self, network: Network, device: torch.device) -> Network:
        """One of this object's networks on a device, copied there once; not to be changed."""
        if device.type == "cpu":
            return network
        if (network, device) not in self._elsewhere:
            self._elsewhere[network, device] = deepcopy(network).to(device)
        return cast("Network", self._elsewhere[network, device])

    def cut(self, recipe: Recipe, device: torch.device = _CPU) -> Segmenter:
        """The model of a recipe: from the elastic model where there is one, but the dense recipe is the dense model.

        It is cut on the device, from weights that lie there from the first cut on.

        Raises:
            UserError: for a recipe that does not fit the model, or that the elastic model was not trained for.
        """
        shares = recipe.merge is not None and recipe.merge.needs_policy
        policy = self.placed(self.policy, device) if self.policy and shares else None
        if self.elastic is None or recipe == dense(self.shape):
            scores = None if self.scores is None else self.saliency
            return compress(self.placed(self.model, device), recipe, scores, policy)
        if problem := self.elastic.space.outside(recipe):
            raise UserError(f"recipe: outside of what the elastic model was trained over: {problem}")
        return compress(self.placed(self.elastic_model, device), recipe, None, policy)

    @property
    def mark(self) -> str:
        """What measurements of a recipe depend on: fingerprints of the model files."""
        return self.checkpoint if self.elastic is None else f"{self.checkpoint} {self.elastic.checkpoint}"

    @cached_property
    def saliency(self) -> saliencies.Saliency:
        assert self.scores is not None
        return {name: torch.from_numpy(score) for name, score in self.scores.items()}


def over(weights: dict[str, np.ndarray], shape: ModelShape) -> Segmenter:
    """A dense model over arrays, which may be read-only."""
    model = empty(shape, dense(shape))
    model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()}, assign=True)
    return model.eval()
