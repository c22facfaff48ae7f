# SPDX-License-Identifier: Apache-2.0
"""CTS: a policy network finds superpatches of one class, whose four patches become one token.

Lu, de Geus & Dubbelman, "Content-Aware Token Sharing for Efficient Semantic Segmentation with Vision
Transformers", CVPR 2023 (REFERENCE 6). Only the tokens that remain are embedded.

Legend: B batch, N tokens, E embedding width, h w grid, p patch side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field

from raycomp.merging.base import ROUNDED, MergeMethod, even_grid
from raycomp.policies import policy_cost
from raycomp.shape import Grid, ModelShape, Size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raycomp.merging.tokens import Tokens


class Cts(MergeMethod):
    """Content-aware token sharing: merges before the first block, where a policy network says so."""

    title: ClassVar[str] = "CTS"
    symbol: ClassVar[str] = "R"
    needs_policy: ClassVar[bool] = True

    method: Literal["cts"] = "cts"
    share: Annotated[float, Field(ge=0, le=0.75), ROUNDED]
    """R: share of patches that sharing removes; each shared 2x2 superpatch saves three of four."""
    policy: Literal["efficientnet_lite0", "small"] = "efficientnet_lite0"
    """Network that predicts which superpatches hold a single class."""

    @property
    def empty(self) -> bool:
        return not self.share

    @property
    def policy_kind(self) -> str:
        return self.policy

    def tokens_removed(self, shape: ModelShape, image: Size | None) -> tuple[int, list[int]]:
        rows, columns = even_grid(shape.grid(image), self.title, shape.patch)
        return 3 * shared_superpatches(self.share, rows * columns), [0] * shape.depth

    def extra_cost(self, patch: int, image: Size) -> int:
        return policy_cost(self.policy, patch, image)

    def embed(
        self, images: Tensor, logits: Tensor, projection: nn.Conv2d, position: Tensor, grid: Grid, prefix: int
    ) -> tuple[Tensor, Tokens]:
        from raycomp.merging.tokens import best_windows

        count = shared_superpatches(self.share, grid[0] * grid[1])
        one_class = (logits[:, 1] - logits[:, 0]).flatten(1)
        shared = best_windows(one_class, count)
        return share(images, shared, count, projection, position, even_grid(grid, self.title), prefix)

    @classmethod
    def standard(cls, shape: ModelShape, policy: str) -> Self:
        del shape
        return cls.model_validate({"share": 0.75, "policy": policy})

    def at(self, strength: float, shape: ModelShape, image: Size | None) -> Self:
        del shape, image
        return type(self)(share=0.75 * strength, policy=self.policy)

    def operating_point(self, shape: ModelShape, image: Size | None) -> str:
        rows, columns = shape.grid(image)
        return f"{self.symbol} = {3 * shared_superpatches(self.share, rows * columns) / (rows * columns):.3f}"

    @property
    def dimensions(self) -> tuple[str, ...]:
        return ("merge",)

    @property
    def searched(self) -> dict[str, float]:
        return {"merge": self.share / 1.5}

    def with_searched(self, ratios: Mapping[str, float]) -> Self:
        return type(self)(share=1.5 * ratios.get("merge", 0.0), policy=self.policy)


def shared_superpatches(share: float, patches: int) -> int:
    """Return how many superpatches share a token: ceil(R N / 3) (REFERENCE 2), capped at all of them."""
    return min(patches // 4, math.ceil(share * patches / 3 - 1e-9))


def share(
    images: Tensor, shared: Tensor, count: int, projection: nn.Conv2d, position: Tensor, grid: Grid, prefix: int
) -> tuple[Tensor, Tokens]:
    """Embed images; a shared superpatch is downsampled to one patch, and its position embeddings are averaged.

    Args:
        images: (B, 3, h*p, w*p).
        shared: (B, h/2 * w/2) bool, with `count` true values per image.
        projection: the patch embedding, stride p.
        position: (1, h*w, E).

    Returns:
        Tokens (B, h*w - 3 * count, E) in raster order, and their record, which includes special tokens.
    """
    import torch
    import torch.nn.functional as F

    from raycomp.merging.tokens import Tokens, first_of_each, patch_pixels, window_of_patch, window_positions, windows

    B, (rows, columns), side = images.shape[0], grid, projection.stride[0]
    index = window_positions(shared, grid, prefix)
    first = index[:, prefix:]
    pixels = patch_pixels(images, side)  # (B, h*w, 3*p*p)
    # Bilinear resampling by 1/2 (half-pixel centres) is the mean of 2x2 pixels, or of 2x2 positions.
    halved = patch_pixels(F.avg_pool2d(images, 2), side)  # (B, h/2 * w/2, 3*p*p)
    pooled = windows(position, grid).mean(2)  # (1, h/2 * w/2, E)
    window = window_of_patch(grid, images.device)
    inside = shared.gather(1, window.expand(B, -1))[..., None]
    kept = first_of_each(first - prefix, rows * columns - 3 * count)  # (B, N): the patch that represents each token
    chosen = window[kept]  # (B, N): their windows
    inside = inside.gather(1, kept[..., None])
    pixels = torch.where(inside, _rows(halved, chosen), _rows(pixels, kept))
    places = torch.where(inside, _rows(pooled.expand(B, -1, -1), chosen), _rows(position.expand(B, -1, -1), kept))
    x = F.linear(pixels, projection.weight.flatten(1), projection.bias) + places
    size = torch.ones(B, prefix + x.shape[1], device=x.device)
    size[:, prefix:] += 3 * inside[..., 0]
    return x, Tokens(size=size, source=first)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Gather rows of x (B, M, C) at index (B, N): (B, N, C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
