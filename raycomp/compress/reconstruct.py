# SPDX-License-Identifier: Apache-2.0
"""Repair a pruned model without gradients: refit its output projections by least squares.

As one-shot pruning does (Frantar & Alistarh, "Optimal Brain Compression", NeurIPS 2022; Kwon et al., "A Fast
Post-Training Pruning Framework for Transformers", NeurIPS 2022): block by block, each projection into the residual
stream is refitted so that, on calibration images, the pruned stream approximates the dense stream best.

Legend: B images, N tokens, E embedding width of the pruned model, D inputs of a projection.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from raycomp.compress.pruning import kept_units
from raycomp.compress.saliency import Saliency
from raycomp.devices import moved
from raycomp.models.block import Block
from raycomp.models.heads.mask import MaskHead
from raycomp.models.rotary import Rotation
from raycomp.models.segmenter import Segmenter

RIDGE = 1e-2  # relative to the inputs' mean second moment; damps directions that calibration hardly covers


@torch.no_grad()
def reconstruct(pruned: Segmenter, dense: Segmenter, saliency: Saliency, images: Tensor) -> None:
    """Refit the output projections of a pruned model in place; it must not share weights.

    Args:
        pruned: cut from `dense` by `saliency`; merging is skipped here.
        images: normalised calibration images (B, 3, H, W), at the image size of the models.
    """
    kept = moved(kept_units(dense.shape, pruned.recipe, saliency), images.device)
    ours, theirs = (model.encoder.embedded(images, shares=False)[0] for model in (pruned, dense))
    shape, grid = dense.shape, dense.shape.grid((images.shape[-2], images.shape[-1]))
    for index in range(shape.depth):
        if index == shape.query_entry:
            ours, theirs = pruned.encoder.queried(ours, None)[0], dense.encoder.queried(theirs, None)[0]
        rotation = dense.encoder.rotation(theirs, None, grid)
        pair = pruned.encoder.blocks[index], dense.encoder.blocks[index]
        ours, theirs = _refit_block(cast("tuple[Block, Block]", pair), ours, theirs, kept["embed"], rotation)
    if isinstance(pruned.decoder, MaskHead) and isinstance(dense.decoder, MaskHead):
        _refit_decoder(pruned, dense, ours, theirs, kept["decoder.embed"])


def _refit_block(
    blocks: tuple[Block, Block], ours: Tensor, theirs: Tensor, kept: Tensor, rotation: Rotation | None = None
) -> tuple[Tensor, Tensor]:
    """Refit a pruned block against the dense block; return both streams after it."""
    block, full = blocks
    theirs = full.attend(theirs, None, rotation)[0]
    if block.attn is not None:  # a dropped half has nothing to refit
        refit(block.attn.proj, lambda: block.attend(ours, None, rotation), theirs[..., kept] - ours)
    ours = block.attend(ours, None, rotation)[0]
    theirs = full.feed(theirs)
    between = ours
    if block.mlp is not None:
        refit(cast("nn.Linear", block.mlp.fc2), lambda: block.feed(between), theirs[..., kept] - between)
    return block.feed(ours), theirs


def _refit_decoder(pruned: Segmenter, dense: Segmenter, ours: Tensor, theirs: Tensor, kept: Tensor) -> None:
    """Refit the decoder: its input projection, then its blocks."""
    small, full = cast("MaskHead", pruned.decoder), cast("MaskHead", dense.decoder)
    special = dense.shape.final_special
    ours, theirs = pruned.encoder.norm(ours)[:, special:], dense.encoder.norm(theirs)[:, special:]
    theirs = full.proj_dec(theirs)
    patches = ours
    refit(small.proj_dec, lambda: small.proj_dec(patches), theirs[..., kept])
    ours = small.proj_dec(ours)
    batch = len(ours)
    ours = torch.cat([ours, small.cls_emb.expand(batch, -1, -1)], dim=1)
    theirs = torch.cat([theirs, full.cls_emb.expand(batch, -1, -1)], dim=1)
    for pair in zip(small.blocks, full.blocks, strict=True):
        ours, theirs = _refit_block(cast("tuple[Block, Block]", pair), ours, theirs, kept)


def refit(layer: nn.Linear, run: Callable[[], object], target: Tensor) -> None:
    """Refit a linear layer's weight and bias so that its output approximates `target` (B, N, E).

    Ridge regression towards the current weights, in float64: for inputs X (B*N, D) and the error R of the current
    output, both centred, the update is (X'X + ridge I)^-1 X'R.

    Args:
        run: calls the layer once, with the inputs of `target`.
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
