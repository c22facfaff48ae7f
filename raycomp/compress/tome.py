"""Token merging: bipartite matching, size-weighted merge and dense restore.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023 (REFERENCE 4).

Legend: B batch, N tokens, P special tokens, E embedding width, H heads.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raycomp.models.segmenter import Tokens
from raycomp.recipe import ToMe


def match(metric: Tensor, r: int, prefix: int) -> Tensor:
    """Choose the r best merges between tokens at even (sources) and odd positions (destinations).

    Each source proposes its most similar destination; the r best proposals win. Special tokens,
    the first `prefix`, take no part.

    Args:
        metric: (B, N, C), compared by cosine.
        r: merges, at most half of N - prefix.
        prefix: special tokens in front.

    Returns:
        (B, N) int64, the position of each token after merging: special tokens, then unmerged
        sources in their order, then destinations.
    """
    B, N, _ = metric.shape
    metric = F.normalize(metric.float(), dim=-1)  # ties would be common in bfloat16
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)  # (B, ceil(N/2), floor(N/2))
    sources = (prefix + 1) // 2  # special tokens among the sources
    others = prefix // 2  # and among the destinations
    scores[:, :sources] = -torch.inf
    scores[:, :, :others] = -torch.inf
    best, partner = scores.max(dim=-1)
    order = best.argsort(dim=-1, descending=True, stable=True)
    stays = torch.ones_like(best, dtype=torch.int64).scatter_(1, order[:, :r], 0)[:, sources:]

    # Position of every token in: special | unmerged sources | destinations.
    kept = stays.shape[1] - r
    index = torch.empty(B, N, dtype=torch.int64, device=metric.device)
    index[:, :prefix] = torch.arange(prefix, device=metric.device)
    first_source = prefix + prefix % 2
    first_destination = prefix + 1 - prefix % 2
    destinations = prefix + kept + torch.arange(N // 2 - others, device=metric.device)
    index[:, first_destination::2] = destinations
    stay_at = prefix + stays.cumsum(1) - 1
    merge_at = prefix + kept + partner[:, sources:] - others
    index[:, first_source::2] = torch.where(stays.bool(), stay_at, merge_at)
    return index


def merge(x: Tensor, size: Tensor, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Average the tokens that share a position, weighted by their sizes; sizes add up.

    Args:
        x: (B, N, E).
        size: (B, N), patches in each token.
        index: (B, N), positions from `match`.
        count: tokens after merging.

    Returns:
        Tokens (B, count, E) of x's dtype and their sizes (B, count).
    """
    B, N, E = x.shape
    flat = (index + count * torch.arange(B, device=x.device)[:, None]).view(B * N)
    sizes = size.new_zeros(B * count).index_add_(0, flat, size.reshape(B * N))
    weighted = (x * size[..., None]).view(B * N, E)  # float32, as sizes are
    sums = weighted.new_zeros(B * count, E).index_add_(0, flat, weighted)
    return (sums / sizes[:, None]).to(x.dtype).view(B, count, E), sizes.view(B, count)


@dataclass(frozen=True)
class ToMeMerger:
    """Merges the recipe's share of tokens in each block; see `raycomp.models.segmenter.Merger`."""

    settings: ToMe
    prefix: int

    def __call__(self, block: int, x: Tensor, keys: Tensor, tokens: Tokens | None) -> tuple[Tensor, Tokens | None]:
        """Map x (B, N, E) and keys (B, H, N, qk) to fewer tokens."""
        B, N, _ = x.shape
        mergeable = N - self.prefix
        r = min(int(self.settings.ratios[block] * mergeable + 0.5), mergeable // 2)
        if r == 0:
            return x, tokens
        if tokens is None:
            patches = torch.arange(self.prefix, N, device=x.device).expand(B, -1)
            tokens = Tokens(size=torch.ones(B, N, device=x.device), source=patches)
        metric = keys.mean(1) if self.settings.metric == "mean_keys" else keys.transpose(1, 2).flatten(2)
        index = match(metric, r, self.prefix)
        x, size = merge(x, tokens.size, index, N - r)
        return x, Tokens(size=size, source=index.gather(1, tokens.source))
