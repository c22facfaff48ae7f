# SPDX-License-Identifier: Apache-2.0
"""Record how many tokens each block processes, for merging that depends on the image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from raycomp.models.segmenter import Segmenter


@contextmanager
def recorded(model: Segmenter) -> Iterator[list[list[int]]]:
    """Yield a list that gains, per forward pass, the tokens after each block's merge, special tokens included."""
    passes: list[list[int]] = []

    def count(block: int, tokens: int) -> None:
        if block == 0:
            passes.append([])
        passes[-1].append(tokens)

    model.encoder.observer = count
    try:
        yield passes
    finally:
        model.encoder.observer = None


def tokens_per_block(model: Segmenter, images: Tensor) -> list[int]:
    """Return the tokens after each block in one pass on images (B, 3, H, W), special tokens included."""
    with recorded(model) as passes, torch.inference_mode():
        model(images)
    return passes[0]
