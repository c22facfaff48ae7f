# SPDX-License-Identifier: Apache-2.0
"""A tiny shape for every head."""

from typing import Any

from raycomp.shape import ModelShape
from tests.conftest import TINY

_TAPPED: dict[str, Any] = {"depth": 4, "taps": (1, 2, 3, 4), "decoder_width": 12}
_CHANGES: dict[str, dict[str, Any]] = {
    "linear": {"decoder": "linear"},
    "mask": {},
    "eomt": {"decoder": "eomt", "queries": 6, "query_blocks": 2},
    "dpt": {**_TAPPED, "decoder": "dpt", "tap_norm": "none"},
    "dpt project": {**_TAPPED, "decoder": "dpt", "readout": "project", "double_scores": True, "tap_norm": "all"},
    "dpt add": {**_TAPPED, "decoder": "dpt", "readout": "add", "tap_widths": (5, 6, 7, 8)},
    "upernet": {**_TAPPED, "decoder": "upernet", "tap_widths": (20,) * 4},
    "upernet of one": {"decoder": "upernet", "decoder_width": 12},
    "pup": {"decoder": "pup", "decoder_width": 12},
}
NAMES = tuple(_CHANGES)


def shape_of(name: str, **others: Any) -> ModelShape:
    """Return TINY with a head, checked."""
    return ModelShape.model_validate({**TINY.model_dump(), **_CHANGES[name], **others})
