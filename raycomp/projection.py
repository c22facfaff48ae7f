# SPDX-License-Identifier: Apache-2.0
"""Compress a point of a search space until it keeps its limits, and no further."""

import math
from collections.abc import Callable, Mapping
from itertools import islice

from raycomp.dimension import Dimension

Params = dict[str, int]

_HALVINGS = 40  # far below the grid's resolution


def projected(
    params: Params,
    dimensions: Mapping[str, Dimension],
    smallest: Params,
    dropping: Params,
    cheapest: Params,
    fits: Callable[[Params], bool],
) -> Params:
    """Compress a point along some dimensions, keeping its proportions, until it fits; see `Space.project`.

    Args:
        params: A point that does not fit.
        dimensions: Those that change.
        smallest: The point with maximum compression, every sublayer kept.
        dropping: The values that drop a sublayer, in the order in which they are taken.
        cheapest: A point that fits.
    """
    drops = {name: low for name, low in dropping.items() if name in dimensions}
    start = {name: d.compression(params[name]) for name, d in dimensions.items()}
    end = {name: d.compression(cheapest[name]) for name, d in dimensions.items()}
    stretch = 1 / min((c for c in start.values() if c > 0), default=1.0)

    def scaled(factor: float) -> Params:
        return params | {name: d.at(min(1.0, start[name] * factor)) for name, d in dimensions.items()}

    full = {name: min(1.0, c * stretch) for name, c in start.items()}
    for name in drops:
        end[name] = max(full[name], dimensions[name].compression(smallest[name]))

    def blended(share: float) -> Params:
        return params | {name: d.at((1 - share) * full[name] + share * end[name]) for name, d in dimensions.items()}

    narrow = blended(1.0)
    left = {name: low for name, low in drops.items() if narrow[name] != low == cheapest[name]}

    def dropped(share: float) -> Params:
        count = math.ceil(share * len(left))
        return (
            params | {name: cheapest[name] for name in dimensions}
            if count == len(left)
            else narrow | dict(islice(left.items(), count))
        )

    if max(start.values(), default=0.0) > 0 and fits(scaled(stretch)):
        return weakest(scaled, 1.0, stretch, fits)
    if not drops or fits(narrow):
        return weakest(blended, 0.0, 1.0, fits)
    return weakest(dropped, 0.0, 1.0, fits)


def weakest(at: Callable[[float], Params], low: float, high: float, fits: Callable[[Params], bool]) -> Params:
    """Bisect a path for the least compressed point that fits; its end, `high`, must fit."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if fits(at(middle)):
            high = middle
        else:
            low = middle
    return at(high)
