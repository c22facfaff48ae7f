# SPDX-License-Identifier: Apache-2.0
"""What each decoder computes, as a list of steps: `raycomp.models.heads` builds from it, `raycomp.flops` counts it.

No module here imports torch.
"""

from collections.abc import Callable
from functools import lru_cache

from raycomp.decoders import dpt_steps, eomt_steps, linear_steps, mask_steps, pup_steps, upernet_steps
from raycomp.decoders.operations import Input, Step

STEPS: dict[str, Callable[[Input], tuple[Step, ...]]] = {
    "linear": linear_steps.steps,
    "mask": mask_steps.steps,
    "eomt": eomt_steps.steps,
    "dpt": dpt_steps.steps,
    "upernet": upernet_steps.steps,
    "pup": pup_steps.steps,
}
"""Steps of each decoder that a `ModelShape` can name."""


@lru_cache(maxsize=2**16)  # a search asks for few widths and numbers of patches, hundreds of thousands of times
def decoder_cost(given: Input) -> int:
    """Return the multiply-adds of a decoder on one image, including upsampling to pixels; see `raycomp.flops`."""
    return sum(step.cost for step in STEPS[given.shape.decoder](given))
