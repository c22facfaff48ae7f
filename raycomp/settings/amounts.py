# SPDX-License-Identifier: Apache-2.0
"""Limits on costs: a share of the dense model's cost such as 40%, or an amount with a unit such as 8 ms."""

import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

CostName = Literal["gflops", "params", "ms", "memory", "file"]

_BYTES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_UNITS: dict[CostName, dict[str, float]] = {
    "gflops": {"GFLOPs": 1, "GFLOP": 1, "MFLOPs": 1e-3, "TFLOPs": 1e3},
    "params": {"params": 1, "k": 1e3, "M": 1e6, "B": 1e9},
    "ms": {"ms": 1, "s": 1e3, "us": 1e-3},
    "memory": _BYTES,
    "file": _BYTES,
}
"""Units of each cost and their size in its base unit, which comes first; case does not matter."""
_NUMBER = re.compile(r"\s*(\d*\.?\d+(?:e[+-]?\d+)?|\d+\.)\s*([a-z%]*)\s*", re.IGNORECASE)
_USUAL: dict[CostName, str] = {"gflops": "GFLOPs", "params": "M", "ms": "ms", "memory": "MB", "file": "MB"}
_EXAMPLES: dict[CostName, str] = {"gflops": "0.2", "params": "1", "ms": "8", "memory": "2", "file": "2"}


@dataclass(frozen=True, slots=True)
class Amount:
    """A cost in its base unit: GFLOPs, parameters, milliseconds or bytes."""

    value: float
    cost: CostName

    def __str__(self) -> str:
        """Return the text that is read as this amount: `8 ms`, `1500000 params`."""
        return f"{self.value:.15g} {next(iter(_UNITS[self.cost]))}"


Limit = float | Amount
"""A limit on a cost: a share of the dense model's, or an amount."""


def allowance(limit: Limit, dense: float) -> float:
    """Return the largest cost that a limit allows, given the cost of the dense model."""
    return limit.value if isinstance(limit, Amount) else limit * dense


def in_words(limit: Limit) -> str:
    """Return a limit in a usual unit: `40%`, `0.2 GFLOPs`, `1.5 M parameters`, `8 ms`, `2 MB`."""
    if not isinstance(limit, Amount):
        return f"{100 * limit:.3g}%"
    sizes, usual = _UNITS[limit.cost], _USUAL[limit.cost]
    if limit.cost in ("params", "memory", "file") and limit.value < sizes[usual]:
        usual = "k" if limit.cost == "params" else "kB"
    number = f"{limit.value / sizes[usual]:.4g} {usual}"
    return f"{number} parameters" if limit.cost == "params" else number


def parsed_limit(value: object, costs: tuple[CostName, ...], bare: bool = False) -> Limit:
    """Parse `40%` or 0.4 as a share, and `0.2 GFLOPs`, `1M`, `8 ms` or `2 MB` as an amount.

    Args:
        costs: The costs that the limit may be of; the unit decides.
        bare: Whether a number without unit is an amount of the first cost, not a share.

    Raises:
        ValueError: Naming the nearest right forms.
    """
    if isinstance(value, Amount) and value.cost in costs:
        return value
    text = f"{value!r}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    match = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    number, unit = (float(match[1]), match[2].lower()) if match else (0.0, "")
    if unit == "%" or not (unit or bare):
        share = number / 100 if unit else number
        if 0 < share <= 1:
            return share
    for cost in costs:
        units = {name.lower(): size for name, size in _UNITS[cost].items()}
        counts = bare or (cost == "params" and number > 1)  # a number of parameters needs no unit
        size = units.get(unit, 1.0 if not unit and counts else 0.0)
        if number * size > 0:
            return Amount(number * size, cost)
    shown = match[1] if match and number else ""
    forms = [f"{shown or _EXAMPLES[cost]} {_USUAL[cost]}" for cost in costs]
    percent = f"{shown}%" if 1 <= number <= 100 else "40%"
    raise ValueError(f"expected a share of dense such as {percent}, or {' or '.join(forms)}")


def _limit_of(*costs: CostName) -> tuple[BeforeValidator, PlainSerializer]:
    return BeforeValidator(partial(parsed_limit, costs=costs)), PlainSerializer(stored)


def stored(limit: Limit) -> float | str:
    """Return a limit as it is written to a file."""
    return str(limit) if isinstance(limit, Amount) else limit


Budget = Annotated[Limit, *_limit_of("gflops", "ms")]
"""A limit on GFLOPs or time."""
GflopsLimit = Annotated[Limit, *_limit_of("gflops")]
ParamsLimit = Annotated[Limit, *_limit_of("params")]
TimeLimit = Annotated[Limit, *_limit_of("ms")]
MemoryLimit = Annotated[Limit, *_limit_of("memory")]
FileLimit = Annotated[Limit, *_limit_of("file")]
