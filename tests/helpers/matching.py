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
