# SPDX-License-Identifier: Apache-2.0
"""Quantise a model to INT8 in torch, so that it predicts what its INT8 ONNX graph predicts.

Linear maps multiply 8-bit integers, as in `raycomp.deploy.precision.to_int8`: all but those of a policy network, with
the products by parameter matrices of a mask decoder. Weights have 7 bits and a scale per output channel; inputs have 8
bits between the least and the largest value seen on calibration images; outputs are not quantised. Both round half to
even. The integers are stored as float32, whose sums are exact up to 2^24: time is not that of INT8.

Legend: B images, K inputs, N outputs.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.errors import UserError
from raycomp.models.heads.mask import MaskHead, Product
from raycomp.models.segmenter import Segmenter

_POLICY = "encoder.sharer"
_WEIGHT_LEVELS = 64
"""Largest magnitude of an integer weight: 8-bit products would saturate on CPUs without VNNI."""
_INPUT_LEVELS = 255
"""Steps in the range of an input."""
_BATCH = 16  # of calibration


def quantised(model: Segmenter, images: Tensor) -> Segmenter:
    """Return a copy that computes as the model's INT8 graph does; its state dict is that of the model.

    Args:
        model: in evaluation mode and float32.
        images: normalised calibration images (B, 3, H, W), at least one, on the model's device.

    Raises:
        UserError: without images.
    """
    if not len(images):
        raise UserError("int8: no calibration image; ranges of inputs need at least one of the training split")
    ranges = _input_ranges(model, images)
    copy = deepcopy(model)
    for name, (low, high) in ranges.items():
        module = copy.get_submodule(name)
        parent = copy.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Linear):
            made = QuantisedMap(module.weight, module.bias, low, high)
            made.weight, made.bias = module.weight, module.bias  # as parameters, so that none is lost
        else:
            weight = getattr(parent, MaskHead.products[name.rpartition(".")[2]])
            made = QuantisedMap(weight.T, None, low, high)
        setattr(parent, name.rpartition(".")[2], made)
    return copy


def linear_maps(model: Segmenter) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that a quantised model replaces, by name: linear maps, and products of a mask decoder."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Product) and not name.startswith(_POLICY):
            yield name, module


class QuantisedMap(nn.Module):
    """Multiplies integers: x (..., K) to (..., N)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, low: float, high: float) -> None:
        """Round a weight (N, K); `low` and `high` bound the inputs."""
        super().__init__()
        self.scale, self.zero = _scale_and_zero(low, high)
        largest = weight.detach().abs().amax(dim=1).double()
        scales = (largest / _WEIGHT_LEVELS).float()
        scales = torch.where(scales < torch.finfo(torch.float32).tiny, 1.0, scales)
        levels = (weight.detach() / scales[:, None]).round()
        self.levels: Tensor
        self.register_buffer("levels", levels, persistent=False)
        self.scales: Tensor
        self.register_buffer("scales", scales * torch.tensor(self.scale, dtype=torch.float32), persistent=False)
        self.offset: Tensor | None
        self.register_buffer("offset", None if bias is None else bias.detach(), persistent=False)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Map x (..., K) to (..., N); the weight that a `Product` is given was rounded before."""
        del weight
        whole = (x / self.scale).round_().clamp_(-self.zero, _INPUT_LEVELS - self.zero)
        out = F.linear(whole, self.levels).mul_(self.scales)
        return out if self.offset is None else out.add_(self.offset)


def _scale_and_zero(low: float, high: float) -> tuple[float, int]:
    """Return the step between two integers of a range of inputs (float32), and the integer that stands for 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / _INPUT_LEVELS
    if step < torch.finfo(torch.float32).tiny:
        return 1.0, 0
    return torch.tensor(step, dtype=torch.float32).item(), round(-low / step)


def _input_ranges(model: Segmenter, images: Tensor) -> dict[str, tuple[float, float]]:
    """Return the least and the largest input of every map in float32, by the name of its module."""
    found = dict[str, list[Tensor]]()

    def observer(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def observe(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.setdefault(name, []).extend(inputs[0].aminmax())

        return observe

    handles = [module.register_forward_pre_hook(observer(name)) for name, module in linear_maps(model)]
    try:
        with torch.inference_mode():
            for batch in images.split(1 if model.recipe.adaptive else _BATCH):
                model.patch_scores(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (min(values).item(), max(values).item()) for name, values in found.items()}
