# SPDX-License-Identifier: Apache-2.0
"""Steps of each decoder: `raycomp.models.heads` builds modules from them, `raycomp.flops` counts their cost.

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
"""Steps of each decoder, by its name in `ModelShape`."""


@lru_cache(maxsize=2**16)  # a search asks for few widths and numbers of patches, hundreds of thousands of times
def decoder_cost(spec: Input) -> int:
    """Return the multiply-adds of a decoder on one image, including upsampling to pixels; see `raycomp.flops`."""
    return sum(step.cost for step in STEPS[spec.shape.decoder](spec))
