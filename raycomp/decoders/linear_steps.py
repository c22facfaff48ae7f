# SPDX-License-Identifier: Apache-2.0
"""Steps of the linear decoder: one linear map from each token to the classes."""

from raycomp.decoders.operations import Input, Linear, Step, to_pixels


def steps(spec: Input) -> tuple[Step, ...]:
    """Return the steps on the tokens that remain after merging, then the upsampling of patch scores."""
    head = Step("head", Linear(spec.embed, spec.shape.classes), (spec.patches, 1), reads=True)
    return (head, *to_pixels(spec, spec.grid))
