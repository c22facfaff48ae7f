# SPDX-License-Identifier: Apache-2.0
"""Repair a pruned model without gradients: refit its blocks by least squares on calibration images.

As one-shot pruning does (Frantar & Alistarh, "Optimal Brain Compression", NeurIPS 2022; Kwon et al., "A Fast
Post-Training Pruning Framework for Transformers", NeurIPS 2022), block by block: queries and keys are refitted to the
dense logits, the inputs of the MLP to the dense ones, and each projection into the residual stream so that the pruned
stream approximates the dense stream best.

Legend: B images, N tokens, E embedding width of the pruned model.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from raycomp.compress.least_squares import refit
from raycomp.compress.logits import refit_logits
from raycomp.compress.pruning import kept_units
from raycomp.compress.saliency import Saliency
from raycomp.devices import moved
from raycomp.models.block import Block, GatedMlp
from raycomp.models.heads.mask import MaskHead
from raycomp.models.rotary import Rotation
from raycomp.models.segmenter import Segmenter


@torch.no_grad()
def reconstruct(pruned: Segmenter, dense: Segmenter, saliency: Saliency, images: Tensor) -> None:
    """Refit the blocks of a pruned model in place; it must not share weights.

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
        pair = cast("tuple[Block, Block]", (pruned.encoder.blocks[index], dense.encoder.blocks[index]))
        ours, theirs = _refit_block(pair, ours, theirs, _units(kept, f"block.{index}"), rotation)
    if isinstance(pruned.decoder, MaskHead) and isinstance(dense.decoder, MaskHead):
        _refit_decoder(pruned, dense, ours, theirs, kept)


def _units(kept: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """Return the units of a block that are kept, and those of the stream that it reads, as `embed`."""
    units = {name.removeprefix(f"{place}."): rows for name, rows in kept.items() if name.startswith(f"{place}.")}
    return units | {"embed": kept["decoder.embed" if place.startswith("decoder.") else "embed"]}


def _refit_block(
    blocks: tuple[Block, Block],
    ours: Tensor,
    theirs: Tensor,
    kept: Mapping[str, Tensor],
    rotation: Rotation | None = None,
) -> tuple[Tensor, Tensor]:
    """Refit a pruned block against the dense block; return both streams after it. A dropped half is left out."""
    block, full = blocks
    embed, between = kept["embed"], full.attend(theirs, None, rotation)[0]
    if block.attn is not None and full.attn is not None:
        inputs = cast("nn.Module", block.norm1)(ours), cast("nn.Module", full.norm1)(theirs)
        refit_logits(block.attn, full.attn, inputs, embed, kept["qk"])
        refit(block.attn.proj, lambda: block.attend(ours, None, rotation), between[..., embed] - ours)
    ours = block.attend(ours, None, rotation)[0]
    after = full.feed(between)
    if block.mlp is not None and full.mlp is not None:
        hidden = cast("nn.Linear", full.mlp.fc1)(cast("nn.Module", full.norm2)(between))
        rows = kept["gated" if isinstance(block.mlp, GatedMlp) else "mlp"]
        refit(cast("nn.Linear", block.mlp.fc1), lambda: block.feed(ours), hidden[..., rows])
        refit(cast("nn.Linear", block.mlp.fc2), lambda: block.feed(ours), after[..., embed] - ours)
    return block.feed(ours), after


def _refit_decoder(
    pruned: Segmenter, dense: Segmenter, ours: Tensor, theirs: Tensor, kept: Mapping[str, Tensor]
) -> None:
    """Refit the decoder: its input projection, then its blocks."""
    small, full = cast("MaskHead", pruned.decoder), cast("MaskHead", dense.decoder)
    special = dense.shape.final_special
    ours, theirs = pruned.encoder.norm(ours)[:, special:], dense.encoder.norm(theirs)[:, special:]
    theirs = full.proj_dec(theirs)
    patches = ours
    refit(small.proj_dec, lambda: small.proj_dec(patches), theirs[..., kept["decoder.embed"]])
    ours = small.proj_dec(ours)
    batch = len(ours)
    ours = torch.cat([ours, small.cls_emb.expand(batch, -1, -1)], dim=1)
    theirs = torch.cat([theirs, full.cls_emb.expand(batch, -1, -1)], dim=1)
    for index, pair in enumerate(zip(small.blocks, full.blocks, strict=True)):
        units = _units(kept, f"decoder.block.{index}")
        ours, theirs = _refit_block(cast("tuple[Block, Block]", pair), ours, theirs, units)
