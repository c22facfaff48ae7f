# SPDX-License-Identifier: Apache-2.0
"""Steps of each decoder: `raycomp.models.heads` builds modules from them, `raycomp.flops` counts their cost.

No module here imports torch.
"""

from collections.abc import Callable
from functools import lru_cache

from raycomp.decoders import dpt_steps, eomt_steps, linear_steps, mask_steps, pup_steps, upernet_steps
from raycomp.decoders.halves import attention_weights, mlp_weights
from raycomp.decoders.operations import Attention, Input, Linear, Mlp, Product, Step
from raycomp.shape import ModelShape

STEPS: dict[str, Callable[[Input], tuple[Step, ...]]] = {
    "linear": linear_steps.steps,
    "mask": mask_steps.steps,
    "eomt": eomt_steps.steps,
    "dpt": dpt_steps.steps,
    "upernet": upernet_steps.steps,
    "pup": pup_steps.steps,
}
"""Steps of each decoder, by its name in `ModelShape`."""


@lru_cache(maxsize=2**16)  # a search asks for few widths and numbers of patches, hundreds of thousands of times
def decoder_cost(spec: Input) -> int:
    """Return the multiply-adds of a decoder on one image, including upsampling to pixels; see `raycomp.flops`."""
    return sum(step.cost for step in STEPS[spec.shape.decoder](spec))


@lru_cache(maxsize=2**10)
def decoder_params(shape: ModelShape, embed: int) -> int:
    """Return the number of parameters of a decoder behind an encoder of this width."""
    return sum(step.params for step in STEPS[shape.decoder](Input.unmerged(shape, embed)))


@lru_cache(maxsize=2**10)
def decoder_weights(shape: ModelShape, embed: int) -> int:
    """Return the number of weights of a decoder's linear maps, and of its products by parameters, without biases."""
    total = 0
    for step in STEPS[shape.decoder](Input.unmerged(shape, embed)):
        match step.operation:
            case Linear(inputs, outputs):
                total += inputs * outputs
            case Product() if step.name:
                total += step.params
            case Attention(width, heads, qk, v):
                total += attention_weights(width, heads, qk, v)
            case Mlp(width, hidden):
                total += mlp_weights(width, hidden)
    return total


@lru_cache(maxsize=2**16)
def decoder_peak(spec: Input) -> int:
    """Return the most numbers that a decoder holds at a time for one image, besides the encoder's features."""
    peak, last, kept = 0, 0, 0
    for step in STEPS[spec.shape.decoder](spec):
        peak = max(peak, kept + last + step.peak)
        kept, last = (kept + step.values, 0) if step.kept else (kept, step.values)
    return peak
