# SPDX-License-Identifier: Apache-2.0
"""Record how many tokens each block processes, for merging that depends on the image."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from raycomp.models.block import Block
from raycomp.models.segmenter import Segmenter


@contextmanager
def recorded(model: Segmenter) -> Iterator[list[list[int]]]:
    """Yield a list that gains, per forward pass, the tokens after each block's merge, special tokens included."""
    passes: list[list[int]] = []

    def begin(_: nn.Module, __: tuple[Tensor, ...]) -> None:
        passes.append([])

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes[-1].append(inputs[0].shape[1])

    blocks = list(cast("Iterable[Block]", model.encoder.blocks))
    hooks = [blocks[0].norm1.register_forward_pre_hook(begin)]
    hooks += [block.norm2.register_forward_pre_hook(count) for block in blocks]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def tokens_per_block(model: Segmenter, images: Tensor) -> list[int]:
    """Return the tokens after each block in one pass on images (B, 3, H, W), special tokens included."""
    with recorded(model) as passes, torch.inference_mode():
        model(images)
    return passes[0]
