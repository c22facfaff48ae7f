"""ALGM: windows of alike neighbours merge early, alike tokens anywhere merge once half way.

Norouzi et al., "ALGM: Adaptive Local-then-Global Token Merging for Efficient Semantic Segmentation
with Plain Vision Transformers", CVPR 2024 (REFERENCE 5). Both merges compare the residual stream
after attention; attention does not weigh tokens by size.

Legend: B batch, N tokens, P special tokens, E embedding width, W windows of 2x2 patches.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.compress.merge import best_partners, best_windows_first, merge_tokens, pair_positions, windows
from raycomp.models.segmenter import Tokens
from raycomp.recipe import Algm, even_grid, rounded_share
from raycomp.shape import Grid


@torch.no_grad()
def window_scores(patches: Tensor, grid: Grid) -> Tensor:
    """Mean cosine of the six pairs in each 2x2 window: patches (B, h*w, E) to (B, h/2 * w/2)."""
    unit = F.normalize(windows(patches if patches.dtype == torch.float64 else patches.float(), grid), dim=-1)
    # |u1 + u2 + u3 + u4|^2 = 4 + 2 * (sum of the six cosines)
    return (unit.sum(2).square().sum(-1) - 4) / 12


def alike(best: Tensor, block: int, prefix: int) -> Tensor:
    """Which sources of `best_partners` merge globally: best cosine at least mean + std / block, by image.

    Args:
        best: (B, ceil(N/2)), -inf for special tokens.
        block: the merging block, counted from 1.
    """
    scores = best[:, (prefix + 1) // 2 :]
    limit = scores.mean(1, keepdim=True) + scores.std(1, keepdim=True) / block
    return scores >= limit


@dataclass(frozen=True)
class AlgmMerger:
    """Merges in two blocks; see `raycomp.models.segmenter.Merger`.

    The adaptive form merges in a batch what the image that merges least would merge, as a batch needs
    equal token counts; at batch 1 each image gets its own.
    """

    settings: Algm
    prefix: int
    proportional: bool = False

    def __call__(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid
    ) -> tuple[Tensor, Tokens | None]:
        """Map x (B, N, E) to fewer tokens in the two blocks of the recipe."""
        del keys
        if block == self.settings.blocks[0] - 1:
            return self._local(x, tokens, grid)
        if block == self.settings.blocks[1] - 1:
            return self._global(x, tokens)
        return x, tokens

    def _local(self, x: Tensor, tokens: Tokens | None, grid: Grid) -> tuple[Tensor, Tokens | None]:
        scores = window_scores(x[:, self.prefix :], even_grid(grid, "ALGM"))
        if self.settings.threshold is not None:
            count = int((scores >= self.settings.threshold).sum(1).min())
        else:
            count = rounded_share(float(self.settings.windows or 0), scores.shape[1])
        if count == 0:
            return x, tokens
        index = best_windows_first(scores, count, grid, self.prefix)  # the order decides which pairs can merge later
        return merge_tokens(x, tokens, index, x.shape[1] - 3 * count, self.prefix)

    def _global(self, x: Tensor, tokens: Tokens | None) -> tuple[Tensor, Tokens | None]:
        N = x.shape[1]
        if self.settings.pairs == 0:
            return x, tokens
        best, partner = best_partners(x, self.prefix)
        if self.settings.pairs is None:
            r = int(alike(best, self.settings.blocks[1], self.prefix).sum(1).min())
        else:
            mergeable = N - self.prefix
            r = min(rounded_share(self.settings.pairs, mergeable), mergeable // 2)
        if r == 0:
            return x, tokens
        return merge_tokens(x, tokens, pair_positions(best, partner, r, N, self.prefix), N - r, self.prefix)
