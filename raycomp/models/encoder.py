# SPDX-License-Identifier: Apache-2.0
"""ViT encoder at any widths, with the traits of a `ModelShape`; parameter names follow timm.

Legend: B batch, N tokens, P special tokens, E embedding width, h w grid.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycomp.merging import MergeMethod
from raycomp.merging.tokens import Tokens, TokenSharing, patch_pixels, patch_places, token_places
from raycomp.models._timm import DropPath, PatchEmbed, resample_abs_pos_embed
from raycomp.models.block import Axes, Block, BlockTraits
from raycomp.models.rotary import Rotation
from raycomp.recipe import Recipe
from raycomp.shape import Grid, ModelShape


class Encoder(nn.Module):
    """ViT encoder; special tokens are kept throughout."""

    axes: ClassVar[dict[str, Axes]] = {
        "cls_token": (None, None, "embed"),
        "dist_token": (None, None, "embed"),
        "reg_token": (None, None, "embed"),
        "queries": (None, None, "embed"),
        "pos_embed": (None, None, "embed"),
        "patch_embed.proj.weight": ("embed", None, None, None),
        "patch_embed.proj.bias": ("embed",),
        "norm_pre.weight": ("embed",),
        "norm_pre.bias": ("embed",),
        "norm.weight": ("embed",),
        "norm.bias": ("embed",),
    }

    def __init__(self, shape: ModelShape, recipe: Recipe) -> None:
        super().__init__()
        embed, (rows, columns) = recipe.embed, shape.grid()
        self.shape = shape
        self.merger: MergeMethod | None = None
        self.sharer: TokenSharing | None = None
        self.observer: Callable[[int, int], None] | None = None
        """Called with every block, counted from 0, and its tokens after merging, special tokens included."""
        self.patch_embed = PatchEmbed(None, shape.patch, 3, embed)
        named = shape.prefix - shape.registers  # CLS, or CLS and DIST
        self.cls_token = _tokens(1 if named else 0, embed)
        self.dist_token = _tokens(1 if named == 2 else 0, embed)
        self.reg_token, self.queries = _tokens(shape.registers, embed), _tokens(shape.queries, embed)
        learned = shape.position == "learned"
        self.pos_embed = _tokens(shape.prefix + rows * columns if learned else 0, embed)
        self.norm_pre = nn.LayerNorm(embed, eps=shape.norm_eps) if shape.pre_norm else nn.Identity()
        traits = BlockTraits.of(shape)
        self.blocks = nn.ModuleList(Block(embed, widths, traits) for widths in recipe.blocks)
        self.norm = nn.LayerNorm(embed, eps=shape.norm_eps)

    @property
    def embeddings(self) -> list[nn.Parameter]:
        """Learned tokens and positions."""
        optional = (self.cls_token, self.dist_token, self.reg_token, self.queries, self.pos_embed)
        return [parameter for parameter in optional if parameter is not None]

    def set_drop_path(self, rate: float) -> None:
        """Set stochastic depth in training: it rises linearly from 0 in the first block to `rate` in the last."""
        for index, block in enumerate(cast("Iterable[Block]", self.blocks)):
            share = rate * index / max(1, len(self.blocks) - 1)
            block.drop_path = DropPath(share) if share else nn.Identity()

    def forward(self, images: Tensor, depth: int | None = None) -> tuple[Tensor, Tokens | None]:
        """Encode images (B, 3, height, width), padded to full patches, with the first `depth` blocks (default: all).

        Returns:
            Features (B, P + N, E) after the final norm, and the token record if any tokens merged.
        """
        x, tokens = self._run(images, depth, ())[-1]
        return self.norm(x), tokens

    def tapped(self, images: Tensor) -> list[tuple[Tensor, Tokens | None]]:
        """Return the tokens (B, P + N, E) and the token record after each tapped block, ascending.

        The final norm is applied to the taps in `ModelShape.normed_taps`.
        """
        taps, normed = self.shape.tapped, self.shape.normed_taps
        outputs = self._run(images, None, taps)
        return [(self.norm(x) if tap in normed else x, tokens) for tap, (x, tokens) in zip(taps, outputs, strict=True)]

    def _run(self, images: Tensor, depth: int | None, taps: tuple[int, ...]) -> list[tuple[Tensor, Tokens | None]]:
        """Return the tokens and their record after each block in `taps`, counted from 1; default: after the last."""
        shape, grid = self.shape, self.shape.grid((images.shape[-2], images.shape[-1]))
        x, tokens = self.embedded(images)
        rotation = self.rotation(x, tokens, grid)
        outputs = []
        for index, block in enumerate(islice(cast("Iterable[Block]", self.blocks), depth)):
            if index == shape.query_entry:
                x, tokens = self.queried(x, tokens)
                rotation = self.rotation(x, tokens, grid)
            by_size = tokens is not None and self.merger is not None and self.merger.proportional
            x, keys = block.attend(x, tokens.size.log() if tokens is not None and by_size else None, rotation)
            if self.merger is not None:
                before = tokens
                x, tokens = self.merger.merge(index, x, keys, tokens, grid, shape.special(index))
                rotation = rotation if tokens is before else self.rotation(x, tokens, grid)
            del keys  # a view of queries and values as well, whose memory the MLP can use
            if self.observer is not None:
                self.observer(index, x.shape[1])
            x = block.feed(x)
            if index + 1 in taps:
                outputs.append((x, tokens))
        return outputs if taps else [(x, tokens)]

    def queried(self, x: Tensor, tokens: Tokens | None) -> tuple[Tensor, Tokens | None]:
        """Insert the queries in front of the tokens (B, N, E), and in their record."""
        assert self.queries is not None
        count = self.queries.shape[1]
        x = torch.cat([self.queries.expand(x.shape[0], -1, -1), x], dim=1)
        if tokens is not None:
            tokens = Tokens(size=F.pad(tokens.size, (count, 0), value=1.0), source=tokens.source + count)
        return x, tokens

    def rotation(self, x: Tensor, tokens: Tokens | None, grid: Grid) -> Rotation | None:
        """Return the rotation of queries and keys for tokens x (B, P + N, E); None without rotary position.

        The position of a merged token is the mean of its patches.
        """
        if self.shape.position != "rotary":
            return None
        places = patch_places(grid, x.device)
        if tokens is None:
            special = x.shape[1] - len(places)
            return Rotation(self.shape, F.pad(places, (0, 0, special, 0))[None])
        return Rotation(self.shape, token_places(places, tokens))

    def embedded(self, images: Tensor, shares: bool = True) -> tuple[Tensor, Tokens | None]:
        """Return the tokens (B, P + N, E) of the first block, and their record if `shares` and any are shared."""
        P, patch, (height, width) = self.shape.prefix, self.shape.patch, images.shape[-2:]
        grid = rows, columns = self.shape.grid((height, width))
        bottom, right = rows * patch - height, columns * patch - width
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom))
        position = self._position(grid)
        tokens: Tokens | None = None
        if self.sharer is None or not shares:
            # cuDNN's convolution of three channels is slow; on a CPU the convolution is faster than the product
            x = linear_embedding(images, self.patch_embed.proj) if images.is_cuda else self.patch_embed(images)
            x = x if position is None else x + position[:, P:]  # (B, h*w, E)
        else:
            of_patches = _no_position(self.patch_embed.proj, grid) if position is None else position[:, P:]
            x, tokens = self.sharer(images, self.patch_embed.proj, of_patches, grid)
        if P:
            parts: list[Tensor] = [t for t in (self.cls_token, self.dist_token, self.reg_token) if t is not None]
            special = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
            special = special if position is None else special + position[:, :P]
            x = torch.cat([special.expand(images.shape[0], -1, -1), x], dim=1)
        return self.norm_pre(x), tokens

    def _position(self, grid: Grid) -> Tensor | None:
        """Return the learned positions (1, P + h*w, E), resampled to a grid; None without learned positions."""
        position, stored = self.pos_embed, self.shape.grid()
        if position is None or grid == stored:
            return position
        return resample_abs_pos_embed(
            position, list(grid), list(stored), self.shape.prefix, interpolation="bilinear", antialias=False
        )


def _tokens(count: int, embed: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(1, count, embed)) if count else None


def _no_position(projection: nn.Conv2d, grid: Grid) -> Tensor:
    """Return positions of zero (1, h*w, E) for a model that adds none."""
    return projection.weight.new_zeros(1, grid[0] * grid[1], projection.out_channels)


def linear_embedding(images: Tensor, projection: nn.Conv2d) -> Tensor:
    """Embed the patches of images (B, 3, h*p, w*p) with a projection of stride p, as one product: (B, h*w, E)."""
    return F.linear(patch_pixels(images, projection.stride[0]), projection.weight.flatten(1), projection.bias)
