"""Correct what pruning broke without gradients: refit the output projections by least squares.

As one-shot pruning does (Frantar & Alistarh, "Optimal Brain Compression", NeurIPS 2022; Kwon et al., "A Fast
Post-Training Pruning Framework for Transformers", NeurIPS 2022): block by block, each projection into the residual
stream is moved so that the pruned stream comes as near as it can to the dense one's on calibration images.

Legend: B images, N tokens, E embedding width of the pruned model, D inputs of a projection.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from raycomp.compress.pruning import kept_units
from raycomp.compress.saliency import Saliency
from raycomp.devices import moved
from raycomp.models.segmenter import Block, MaskDecoder, Segmenter

RIDGE = 1e-2  # relative to the mean of the inputs' second moments; holds back directions that calibration hardly shows


@torch.no_grad()
def reconstruct(pruned: Segmenter, dense: Segmenter, saliency: Saliency, images: Tensor) -> None:
    """Refit the output projections of a pruned model in place; its own weights must not be shared.

    Args:
        pruned: cut from `dense` by `saliency`; how it merges does not matter, as nothing merges meanwhile.
        images: normalised calibration images (B, 3, H, W), of the size the models are made for.
    """
    kept = moved(kept_units(dense.shape, pruned.recipe, saliency), images.device)
    ours, theirs = (model.encoder.embedded(images, shares=False)[0] for model in (pruned, dense))
    for index in range(dense.shape.depth):
        pair = pruned.encoder.blocks[index], dense.encoder.blocks[index]
        ours, theirs = _refit_block(cast("tuple[Block, Block]", pair), ours, theirs, kept["embed"])
    if isinstance(pruned.decoder, MaskDecoder) and isinstance(dense.decoder, MaskDecoder):
        _refit_decoder(pruned, dense, ours, theirs, kept["decoder.embed"])


def _refit_block(blocks: tuple[Block, Block], ours: Tensor, theirs: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Refit a pruned block beside the dense one; returns both streams after it."""
    block, whole = blocks
    theirs = whole.attend(theirs)[0]
    refit(block.attn.proj, lambda: block.attend(ours), theirs[..., kept] - ours)
    ours = block.attend(ours)[0]
    theirs = whole.feed(theirs)
    between = ours
    refit(cast("nn.Linear", block.mlp.fc2), lambda: block.feed(between), theirs[..., kept] - between)
    return block.feed(ours), theirs


def _refit_decoder(pruned: Segmenter, dense: Segmenter, ours: Tensor, theirs: Tensor, kept: Tensor) -> None:
    """The decoder's own stream: its input projection, then its blocks."""
    small, whole, prefix = cast("MaskDecoder", pruned.decoder), cast("MaskDecoder", dense.decoder), dense.shape.prefix
    ours, theirs = pruned.encoder.norm(ours)[:, prefix:], dense.encoder.norm(theirs)[:, prefix:]
    theirs = whole.proj_dec(theirs)
    patches = ours
    refit(small.proj_dec, lambda: small.proj_dec(patches), theirs[..., kept])
    ours = small.proj_dec(ours)
    batch = len(ours)
    ours = torch.cat([ours, small.cls_emb.expand(batch, -1, -1)], dim=1)
    theirs = torch.cat([theirs, whole.cls_emb.expand(batch, -1, -1)], dim=1)
    for pair in zip(small.blocks, whole.blocks, strict=True):
        ours, theirs = _refit_block(cast("tuple[Block, Block]", pair), ours, theirs, kept)


def refit(layer: nn.Linear, run: Callable[[], object], target: Tensor) -> None:
    """Move a linear layer's weight and bias so that its output comes nearest to `target` (B, N, E).

    Ridge regression towards the present weights, in float64: with inputs X (B*N, D) and the error R of the present
    output, the change is (X'X + ridge I)^-1 X'R after both are centred.

    Args:
        run: calls the layer once, on the inputs that belong to `target`.
    """
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    run()
    hook.remove()
    x = seen[0].flatten(0, -2)
    error = (target.flatten(0, -2) - layer(x)).double()
    mean, offset = x.double().mean(0), error.mean(0)
    x, error = x.double() - mean, error - offset
    moments: Tensor = x.T @ x
    moments.diagonal().add_(RIDGE * moments.diagonal().mean())
    change = torch.linalg.solve(moments, x.T @ error)
    layer.weight.add_(change.T)
    layer.bias.add_(offset - mean @ change)
