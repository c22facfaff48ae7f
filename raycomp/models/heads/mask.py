# SPDX-License-Identifier: Apache-2.0
"""Segmenter's mask transformer: class embeddings attend with the patches; masks are their dot products.

Strudel et al., "Segmenter: Transformer for Semantic Segmentation", ICCV 2021. Tensors, named as in official
checkpoints: `cls_emb` (1, K, E), `proj_dec`, `blocks.i.*` as in the encoder, `decoder_norm`, `proj_patch` and
`proj_classes` (E, E), which multiply from the right, `mask_norm` (K,).

Legend: B batch, N tokens, E width, K classes.
"""

from collections.abc import Iterable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from raycomp.decoders.mask_steps import decoder_widths
from raycomp.merging.tokens import unit
from raycomp.models.block import Axes, Block, BlockTraits
from raycomp.models.heads.head import TokenHead
from raycomp.shape import ModelShape

_AXES: dict[str, Axes] = {
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


class Product(nn.Module):
    """A product by a parameter of the head, as a module, so that it can be quantised as linear maps are."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiply x (B, N, E) by a weight (E, E) from the right."""
        return x @ weight


class MaskHead(TokenHead):
    """Mask transformer whose width follows the embedding."""

    products: ClassVar[dict[str, str]] = {"to_patches": "proj_patch", "to_classes": "proj_classes"}
    """Names of the products, and of the parameters that they multiply by."""

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__(shape)
        block = decoder_widths(shape, embed)
        # torch's default epsilon, as in the official decoder
        traits = BlockTraits(scale=(shape.width // shape.decoder_heads) ** -0.5, eps=1e-5)
        self.axes = _AXES
        self.cls_emb = nn.Parameter(torch.zeros(1, shape.classes, embed))
        self.proj_dec = nn.Linear(embed, embed)
        self.blocks = nn.ModuleList(Block(embed, block, traits) for _ in range(shape.decoder_depth))
        self.decoder_norm = nn.LayerNorm(embed)
        self.proj_patch = nn.Parameter(embed**-0.5 * torch.randn(embed, embed))
        self.proj_classes = nn.Parameter(embed**-0.5 * torch.randn(embed, embed))
        self.to_patches, self.to_classes = Product(), Product()
        self.mask_norm = nn.LayerNorm(shape.classes)

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate of the blocks in training."""
        for block in cast("Iterable[Block]", self.blocks):
            block.set_dropout(rate)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (B, N, E) to class scores (B, N, K)."""
        B, N, _ = patches.shape
        x = torch.cat([self.proj_dec(patches), self.cls_emb.expand(B, -1, -1)], dim=1)
        for block in cast("Iterable[Block]", self.blocks):
            x = block.attend(x)[0]  # its own line, so that the MLP can use the memory of the input
            x = block.feed(x)
        x = self.decoder_norm(x)
        patches = unit(self.to_patches(x[:, :N], self.proj_patch))
        classes = unit(self.to_classes(x[:, N:], self.proj_classes))
        return self.mask_norm(patches @ classes.transpose(1, 2))
