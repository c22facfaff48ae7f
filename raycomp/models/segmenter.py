# SPDX-License-Identifier: Apache-2.0
"""Segmenter: a plain ViT encoder with a linear or mask-transformer decoder, at any widths.

Strudel et al., "Segmenter: Transformer for Semantic Segmentation", ICCV 2021. Dense and pruned
models use the same class; only the widths in the recipe differ. Parameter names follow official
Segmenter checkpoints; those of the encoder follow timm.

Legend: B batch, N tokens, P special tokens, E embedding width, H heads, K classes, h w grid.
"""

from collections.abc import Iterable
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.flops import decoder_widths
from raycomp.merging.tokens import Tokens
from raycomp.models.block import Axes, Block, BlockTraits
from raycomp.models.encoder import Encoder
from raycomp.recipe import BlockWidths, Recipe
from raycomp.shape import ModelShape, Size

_UPSAMPLED_AT_ONCE = 2**31 - 1  # CUDA's channels-last kernel refuses more outputs


class LinearDecoder(nn.Module):
    """One linear map from each patch to the classes."""

    axes: ClassVar[dict[str, Axes]] = {"head.weight": (None, "embed"), "head.bias": (None,)}

    def __init__(self, embed: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(embed, classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (B, N, E) to class scores (B, N, K)."""
        return self.head(patches)


class MaskDecoder(nn.Module):
    """Mask transformer: class embeddings attend with the patches, and masks are their scalar products."""

    axes: ClassVar[dict[str, Axes]] = {
        "cls_emb": (None, None, "decoder.embed"),
        "proj_dec.weight": ("decoder.embed", "embed"),
        "proj_dec.bias": ("decoder.embed",),
        "decoder_norm.weight": ("decoder.embed",),
        "decoder_norm.bias": ("decoder.embed",),
        "proj_patch": ("decoder.embed", "decoder.out"),
        "proj_classes": ("decoder.embed", "decoder.out"),
        "mask_norm.weight": (None,),
        "mask_norm.bias": (None,),
    }

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__()
        widths = decoder_widths(shape, embed)
        block = BlockWidths(heads=widths.heads, qk=widths.head_dim, v=widths.head_dim, mlp=widths.mlp)
        # torch's default epsilon, as in the official decoder
        traits = BlockTraits(scale=(shape.width // shape.decoder_heads) ** -0.5, eps=1e-5)
        self.cls_emb = nn.Parameter(torch.zeros(1, shape.classes, embed))
        self.proj_dec = nn.Linear(embed, embed)
        self.blocks = nn.ModuleList(Block(embed, block, traits) for _ in range(shape.decoder_depth))
        self.decoder_norm = nn.LayerNorm(embed)
        self.proj_patch = nn.Parameter(embed**-0.5 * torch.randn(embed, embed))
        self.proj_classes = nn.Parameter(embed**-0.5 * torch.randn(embed, embed))
        self.mask_norm = nn.LayerNorm(shape.classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (B, N, E) to class scores (B, N, K)."""
        B, N, _ = patches.shape
        x = torch.cat([self.proj_dec(patches), self.cls_emb.expand(B, -1, -1)], dim=1)
        for block in cast("Iterable[Block]", self.blocks):
            x = block.feed(block.attend(x)[0])
        x = self.decoder_norm(x)
        patches = F.normalize(x[:, :N] @ self.proj_patch, dim=-1)
        classes = F.normalize(x[:, N:] @ self.proj_classes, dim=-1)
        return self.mask_norm(patches @ classes.transpose(1, 2))


class Segmenter(nn.Module):
    """Semantic segmentation model: images to per-pixel class logits."""

    def __init__(self, shape: ModelShape, recipe: Recipe) -> None:
        super().__init__()
        self.shape, self.recipe = shape, recipe
        self.regularisation = (0.0, 0.0)
        """Current drop path and dropout rates."""
        self.encoder = Encoder(shape, recipe)
        self.decoder = (
            LinearDecoder(recipe.embed, shape.classes)
            if shape.decoder == "linear"
            else MaskDecoder(shape, recipe.embed)
        )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder.norm.weight.device

    def regularise(self, drop_path: float, decoder_dropout: float) -> None:
        """Set drop path in the encoder and dropout in a mask decoder, for training; see `TrainConfig`."""
        self.regularisation = drop_path, decoder_dropout
        self.encoder.set_drop_path(drop_path)
        if isinstance(self.decoder, MaskDecoder):
            for block in cast("Iterable[Block]", self.decoder.blocks):
                block.set_dropout(decoder_dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, height, width) to logits (B, K, height, width)."""
        return upsampled(self.patch_scores(images), self.shape.patch, (images.shape[-2], images.shape[-1]))

    def patch_scores(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, height, width) to class scores (B, K, h, w) on the patch grid."""
        grid = self.shape.grid((images.shape[-2], images.shape[-1]))
        features, tokens = self.encoder(images)
        special = self.shape.final_special
        scores = restore(self.decoder(features[:, special:]), tokens, special)
        return scores.transpose(1, 2).unflatten(2, grid)


def upsampled(scores: Tensor, patch: int, size: Size) -> Tensor:
    """Upsample class scores (B, K, h, w) of patches to pixel logits (B, K, height, width), channels last."""
    height, width = size
    # Argmax is several times faster in channels-last layout. At batch 1 a view can pass for channels last and still be
    # upsampled slowly in the other layout; a copy cannot.
    scores = scores.clone(memory_format=torch.channels_last)

    def up(part: Tensor) -> Tensor:
        return F.interpolate(part, scale_factor=float(patch), mode="bilinear")[..., :height, :width]

    each = scores[:1].numel() * patch**2
    if torch.compiler.is_compiling() or len(scores) * each <= _UPSAMPLED_AT_ONCE:  # a traced graph serves any batch
        return up(scores)
    shape = (*scores.shape[:2], height, width)
    logits = torch.empty(shape, dtype=scores.dtype, device=scores.device, memory_format=torch.channels_last)
    some = max(1, _UPSAMPLED_AT_ONCE // each)
    for start in range(0, len(scores), some):
        logits[start : start + some] = up(scores[start : start + some])
    return logits


def restore(values: Tensor, tokens: Tokens | None, prefix: int) -> Tensor:
    """Expand one value per token (B, N, C), special tokens excluded, to every patch (B, h*w, C)."""
    if tokens is None:
        return values
    index = (tokens.source - prefix)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index)


def empty(shape: ModelShape, recipe: Recipe) -> Segmenter:
    """Build a model on the meta device: its parameters have no memory until `tensors.fill` loads them."""
    with torch.device("meta"):
        return Segmenter(shape, recipe)


def init_weights(model: Segmenter, generator: torch.Generator) -> None:
    """Initialise linear maps and embeddings from a truncated normal, std 0.02; norms keep their defaults."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    encoder, decoder = model.encoder, model.decoder
    embeddings = encoder.embeddings
    if isinstance(decoder, MaskDecoder):
        embeddings.append(decoder.cls_emb)
        for projection in (decoder.proj_patch, decoder.proj_classes):
            nn.init.normal_(projection, std=projection.shape[0] ** -0.5, generator=generator)
    for embedding in embeddings:
        nn.init.trunc_normal_(embedding, std=0.02, generator=generator)
