# SPDX-License-Identifier: Apache-2.0
"""A plain ViT encoder with a segmentation head, at any widths.

Strudel et al., "Segmenter: Transformer for Semantic Segmentation", ICCV 2021, gave the name. Dense and pruned
models use the same class; only the widths in the recipe differ. Parameter names follow official
Segmenter checkpoints; those of the encoder follow timm.

Legend: B batch, N tokens, P special tokens, E embedding width, K classes, h w grid.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycomp.merging.tokens import Tokens
from raycomp.models.encoder import Encoder
from raycomp.models.heads import build_head
from raycomp.models.heads.head import TokenHead
from raycomp.models.heads.mask import MaskHead
from raycomp.models.pixels import on_grid, restore
from raycomp.recipe import Recipe
from raycomp.shape import Grid, ModelShape


class Segmenter(nn.Module):
    """Semantic segmentation model: images to per-pixel class logits."""

    def __init__(self, shape: ModelShape, recipe: Recipe) -> None:
        super().__init__()
        self.shape, self.recipe = shape, recipe
        self.regularisation = (0.0, 0.0)
        """Current drop path and dropout rates."""
        self.encoder = Encoder(shape, recipe)
        self.decoder = build_head(shape, recipe.embed)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.encoder.norm.weight.device

    def regularise(self, drop_path: float, decoder_dropout: float) -> None:
        """Set drop path in the encoder and dropout in a mask decoder, for training; see `TrainConfig`."""
        self.regularisation = drop_path, decoder_dropout
        self.encoder.set_drop_path(drop_path)
        self.decoder.set_dropout(decoder_dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, height, width) to logits (B, K, height, width)."""
        return self.decoder.form.logits(self.patch_scores(images), (images.shape[-2], images.shape[-1]))

    def patch_scores(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, height, width) to the head's scores, which its `form` describes.

        Most heads return class scores (B, K, h, w); those of token heads are on the patch grid.
        """
        grid = self.shape.grid((images.shape[-2], images.shape[-1]))
        return self.scores(self.encoder.tapped(images), grid)

    def scores(self, taps: Sequence[tuple[Tensor, Tokens | None]], grid: Grid) -> Tensor:
        """Map the tokens (B, P + N, E) and the token record after each tapped block to the head's scores."""
        counts = [self.shape.special(block - 1) for block in self.shape.tapped]
        if isinstance(self.decoder, TokenHead):
            (x, tokens), special = taps[-1], counts[-1]
            return on_grid(restore(self.decoder(x[:, special:]), tokens, special), grid)
        features = [
            on_grid(restore(x[:, special:], tokens, special), grid)
            for (x, tokens), special in zip(taps, counts, strict=True)
        ]
        return self.decoder(features, [x[:, :special] for (x, _), special in zip(taps, counts, strict=True)])


def empty(shape: ModelShape, recipe: Recipe) -> Segmenter:
    """Build a model on the meta device: its parameters have no memory until `tensors.fill` loads them."""
    with torch.device("meta"):
        return Segmenter(shape, recipe)


def init_weights(model: Segmenter, generator: torch.Generator) -> None:
    """Initialise linear maps and embeddings from a truncated normal, std 0.02; norms keep their defaults."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    encoder, decoder = model.encoder, model.decoder
    embeddings = encoder.embeddings
    if isinstance(decoder, MaskHead):
        embeddings.append(decoder.cls_emb)
        for projection in (decoder.proj_patch, decoder.proj_classes):
            nn.init.normal_(projection, std=projection.shape[0] ** -0.5, generator=generator)
    for embedding in embeddings:
        nn.init.trunc_normal_(embedding, std=0.02, generator=generator)
