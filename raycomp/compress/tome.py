"""ToMe: the most similar tokens merge a little in every block, and attention weighs them by size.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (REFERENCE 4).

Legend: B batch, N tokens, E embedding width, H heads.
"""

from dataclasses import dataclass

from torch import Tensor

from raycomp.compress.merge import match, merge_tokens
from raycomp.models.segmenter import Tokens
from raycomp.recipe import ToMe, rounded_share
from raycomp.shape import Grid


@dataclass(frozen=True)
class ToMeMerger:
    """Merges the recipe's share of tokens in each block; see `raycomp.models.segmenter.Merger`."""

    settings: ToMe
    prefix: int
    proportional: bool = True

    def __call__(
        self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None, grid: Grid
    ) -> tuple[Tensor, Tokens | None]:
        """Map x (B, N, E) and keys (B, H, N, qk) to fewer tokens."""
        del grid
        N = x.shape[1]
        mergeable = N - self.prefix
        r = min(rounded_share(self.settings.ratios[block], mergeable), mergeable // 2)
        if r == 0:
            return x, tokens
        metric = keys if self.settings.metric == "mean_keys" else keys.transpose(1, 2).flatten(2)
        return merge_tokens(x, tokens, match(metric, r, self.prefix), N - r, self.prefix)
