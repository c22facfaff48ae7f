# SPDX-License-Identifier: Apache-2.0
"""Steps of the linear decoder: one linear map from each token to the classes."""

from raycomp.decoders.operations import Input, Linear, Step, to_pixels


def steps(given: Input) -> tuple[Step, ...]:
    """Return the steps on the tokens that are left after merging; scores of patches are upsampled."""
    head = Step("head", Linear(given.embed, given.shape.classes), (given.patches, 1), reads=True)
    return (head, *to_pixels(given, given.grid))
