# SPDX-License-Identifier: Apache-2.0
"""Segmenter: a plain ViT encoder with a linear or mask-transformer decoder, at any widths.

Strudel et al., "Segmenter: Transformer for Semantic Segmentation", ICCV 2021. Dense and pruned
models use the same class; only the widths in the recipe differ. Parameter names follow official
Segmenter checkpoints; those of the encoder follow timm.

Legend: B batch, N tokens, P special tokens, E embedding width, H heads, K classes, h w grid.
"""

from collections.abc import Iterable
from itertools import islice
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp import kernels
from raycomp.flops import decoder_widths
from raycomp.merging import MergeMethod
from raycomp.merging.tokens import Tokens, TokenSharing, patch_pixels
from raycomp.models._timm import DropPath, Mlp, PatchEmbed, resample_abs_pos_embed
from raycomp.recipe import BlockWidths, Recipe
from raycomp.shape import ModelShape, Size

_UPSAMPLED_AT_ONCE = 2**31 - 1  # CUDA's channels-last kernel refuses more outputs
_HALF = (torch.bfloat16, torch.float16)


class Attention(nn.Module):
    """Multi-head self-attention whose QK and V widths may differ; the scale stays that of the dense model."""

    def __init__(self, embed: int, heads: int, qk: int, v: int, scale: float) -> None:
        super().__init__()
        self.heads, self.qk, self.v, self.scale, self.dropout = heads, qk, v, scale, 0.0
        self.qkv = nn.Linear(embed, heads * (2 * qk + v))
        self.proj = nn.Linear(heads * v, embed)

    def forward(self, x: Tensor, log_size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend over x (B, N, E); log_size (B, N) is added to each key's logit (ToMe, eq. 1).

        Returns:
            The output (B, N, E) and the keys (B, H, N, qk).
        """
        B, N, _ = x.shape
        H, qk, v = self.heads, self.qk, self.v
        query, key, value = (
            part.view(B, N, H, -1).transpose(1, 2) for part in self.qkv(x).split((H * qk, H * qk, H * v), dim=-1)
        )  # (B, H, N, qk), (B, H, N, qk), (B, H, N, v)
        dropout = self.dropout if self.training else 0.0
        wide = max(qk, v)
        fits = query.dtype in _HALF and wide <= 128 and not dropout
        if fits and kernels.usable(query, key, value):
            from raycomp.kernels import attention

            return self.proj(attention.attend(query, key, value, log_size, self.scale)), key
        bias = None if log_size is None else log_size.to(query.dtype)[:, None, None, :]
        # Torch's fused kernels need equal head widths. Padding the narrower side with zeros does not change the result.
        out = F.scaled_dot_product_attention(
            _padded(query, wide), _padded(key, wide), _padded(value, wide), bias, dropout, scale=self.scale
        )
        out = self.proj(out[..., :v].transpose(1, 2).reshape(B, N, H * v))
        return F.dropout(out, dropout, self.training), key


def _padded(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


class Block(nn.Module):
    """A pre-norm transformer block, split in two so that tokens can merge between attention and MLP."""

    def __init__(self, embed: int, widths: BlockWidths, scale: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed, eps=eps)
        self.attn = Attention(embed, widths.heads, widths.qk, widths.v, scale)
        self.norm2 = nn.LayerNorm(embed, eps=eps)
        self.mlp = Mlp(embed, widths.mlp)
        self.drop_path: nn.Module = nn.Identity()

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate of attention weights and linear outputs in training."""
        self.attn.dropout = self.mlp.drop1.p = self.mlp.drop2.p = rate

    def attend(self, x: Tensor, log_size: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, keys = self.attn(self.norm1(x), log_size)
        return x + self.drop_path(out), keys

    def feed(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Encoder(nn.Module):
    """ViT encoder; the CLS (and DIST) tokens are kept throughout."""

    def __init__(self, shape: ModelShape, recipe: Recipe) -> None:
        super().__init__()
        embed, (rows, columns) = recipe.embed, shape.grid()
        self.shape = shape
        self.merger: MergeMethod | None = None
        self.sharer: TokenSharing | None = None
        self.patch_embed = PatchEmbed(None, shape.patch, 3, embed)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, embed)) if shape.prefix == 2 else None
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.prefix + rows * columns, embed))
        scale = shape.head_dim**-0.5
        self.blocks = nn.ModuleList(Block(embed, widths, scale, shape.norm_eps) for widths in recipe.blocks)
        self.norm = nn.LayerNorm(embed, eps=shape.norm_eps)

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth in training: it rises linearly from 0 in the first block to `rate` in the last."""
        for index, block in enumerate(cast("Iterable[Block]", self.blocks)):
            share = rate * index / max(1, len(self.blocks) - 1)
            block.drop_path = DropPath(share) if share else nn.Identity()

    def forward(self, images: Tensor, depth: int | None = None) -> tuple[Tensor, Tokens | None]:
        """Encode images (B, 3, height, width), padded to full patches, with the first `depth` blocks (default: all).

        Returns:
            Features (B, P + N, E) after the last norm, and the token record if any tokens merged.
        """
        grid = self.shape.grid((images.shape[-2], images.shape[-1]))
        x, tokens = self.embedded(images)
        for index, block in enumerate(islice(cast("Iterable[Block]", self.blocks), depth)):
            by_size = tokens is not None and self.merger is not None and self.merger.proportional
            x, keys = block.attend(x, tokens.size.log() if tokens is not None and by_size else None)
            if self.merger is not None:
                x, tokens = self.merger.merge(index, x, keys, tokens, grid, self.shape.prefix)
            x = block.feed(x)
        return self.norm(x), tokens

    def embedded(self, images: Tensor, shares: bool = True) -> tuple[Tensor, Tokens | None]:
        """Return the tokens (B, P + N, E) of the first block, and their record if `shares` and any are shared."""
        P, patch, (height, width) = self.shape.prefix, self.shape.patch, images.shape[-2:]
        grid = rows, columns = self.shape.grid((height, width))
        bottom, right = rows * patch - height, columns * patch - width
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        position = self.pos_embed
        if grid != self.shape.grid():
            position = resample_abs_pos_embed(
                position, list(grid), list(self.shape.grid()), P, interpolation="bilinear", antialias=False
            )
        tokens: Tokens | None = None
        if self.sharer is None or not shares:
            # cuDNN's convolution of three channels is slow; on a CPU the convolution is faster than the product
            x = linear_embedding(images, self.patch_embed.proj) if images.is_cuda else self.patch_embed(images)
            x = x + position[:, P:]  # (B, h*w, E)
        else:
            x, tokens = self.sharer(images, self.patch_embed.proj, position[:, P:], grid)
        special = self.cls_token if self.dist_token is None else torch.cat([self.cls_token, self.dist_token], dim=1)
        return torch.cat([(special + position[:, :P]).expand(images.shape[0], -1, -1), x], dim=1), tokens


def linear_embedding(images: Tensor, projection: nn.Conv2d) -> Tensor:
    """Embed the patches of images (B, 3, h*p, w*p) with a projection of stride p, as one product: (B, h*w, E)."""
    return F.linear(patch_pixels(images, projection.stride[0]), projection.weight.flatten(1), projection.bias)


class LinearDecoder(nn.Module):
    """One linear map from each patch to the classes."""

    def __init__(self, embed: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(embed, classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (B, N, E) to class scores (B, N, K)."""
        return self.head(patches)


class MaskDecoder(nn.Module):
    """Mask transformer: class embeddings attend with the patches, and masks are their scalar products."""

    def __init__(self, shape: ModelShape, embed: int) -> None:
        super().__init__()
        widths = decoder_widths(shape, embed)
        block = BlockWidths(heads=widths.heads, qk=widths.head_dim, v=widths.head_dim, mlp=widths.mlp)
        scale = (shape.width // shape.decoder_heads) ** -0.5
        self.cls_emb = nn.Parameter(torch.zeros(1, shape.classes, embed))
        self.proj_dec = nn.Linear(embed, embed)
        # torch's default epsilon, as in the official decoder
        self.blocks = nn.ModuleList(Block(embed, block, scale, 1e-5) for _ in range(shape.decoder_depth))
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
        scores = restore(self.decoder(features[:, self.shape.prefix :]), tokens, self.shape.prefix)
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
    embeddings = [encoder.cls_token, encoder.dist_token, encoder.pos_embed]
    if isinstance(decoder, MaskDecoder):
        embeddings.append(decoder.cls_emb)
        for projection in (decoder.proj_patch, decoder.proj_classes):
            nn.init.normal_(projection, std=projection.shape[0] ** -0.5, generator=generator)
    for embedding in embeddings:
        if embedding is not None:
            nn.init.trunc_normal_(embedding, std=0.02, generator=generator)
