# SPDX-License-Identifier: Apache-2.0
"""Bipartite matching in plain loops."""

import numpy as np


def brute_force_match(metric: np.ndarray, r: int, prefix: int) -> list[int]:
    """Positions after merging one image's tokens, by the published steps, one token at a time."""
    unit = metric / np.linalg.norm(metric, axis=1, keepdims=True)
    sources = [i for i in range(len(unit)) if i % 2 == 0 and i >= prefix]
    destinations = [i for i in range(len(unit)) if i % 2 == 1 and i >= prefix]
    partner = {s: max(destinations, key=lambda d: unit[s] @ unit[d]) for s in sources}
    by_priority = sorted(sources, key=lambda s: -(unit[s] @ unit[partner[s]]))
    merged = set(by_priority[:r])
    kept = [*range(prefix), *(s for s in sources if s not in merged), *destinations]
    return [kept.index(partner[i] if i in merged else i) for i in range(len(unit))]


def brute_force_places(
    metric: np.ndarray, groups: list[list[int]], grid: tuple[int, int], prefix: int, weight: float = 0.1
) -> np.ndarray:
    """Unit vectors (N, C) followed by cosines and sines of each token's mean place, half a turn on the longer side."""
    rows = []
    for vector, group in zip(metric, groups, strict=True):
        angles = np.zeros(2)
        for token in group:
            if token >= prefix:
                y, x = divmod(token - prefix, grid[1])
                angles += np.pi * (np.array([y, x]) + 0.5 - np.array(grid) / 2) / max(grid) / len(group)
        where = [np.cos(angles), np.sin(angles)]
        rows.append(np.concatenate([vector / np.linalg.norm(vector), *(weight**0.5 * part for part in where)]))
    return np.array(rows)
