"""How many tokens each block really processes, for merging that depends on the image."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from raycomp.models.segmenter import Block, Segmenter


@contextmanager
def recorded(model: Segmenter) -> Iterator[list[list[int]]]:
    """While open, the list grows by one entry per forward pass: tokens after each block's merge, special ones in."""
    passes: list[list[int]] = []

    def begin(_: nn.Module, __: tuple[Tensor, ...]) -> None:
        passes.append([])

    def seen(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passes[-1].append(inputs[0].shape[1])

    blocks = cast("Iterable[Block]", model.encoder.blocks)
    hooks = [model.encoder.register_forward_pre_hook(begin)]
    hooks += [block.norm2.register_forward_pre_hook(seen) for block in blocks]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def tokens_per_block(model: Segmenter, images: Tensor) -> list[int]:
    """Tokens after each block of one forward pass on images (B, 3, H, W), special tokens included."""
    with recorded(model) as passes, torch.inference_mode():
        model(images)
    return passes[0]
