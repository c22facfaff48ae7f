# SPDX-License-Identifier: Apache-2.0
"""What a latency table was timed on and how far its times are off, in words; reading it from a file needs no torch."""

import json
import statistics
from collections.abc import Mapping, Sequence

from raycomp.storage import AnyPath

TABLE_FILE = "latency.json"
"""Name of a sweep's latency table in its folder."""


def table_in_words(setting: str, errors: Mapping[str, Sequence[float]]) -> str:
    """Describe a latency table by its setting, and by the median and maximum of its relative errors by precision."""
    found = {name: f"{_words(each)}, on {len(each)} models" for name, each in errors.items() if each}
    said = [f"{name} {words}" for name, words in found.items()] if len(found) > 1 else found.values()
    return "; ".join([setting, *said])


def _words(errors: Sequence[float]) -> str:
    return f"{statistics.median(errors):.1%} off in the median and {max(errors):.1%} at most"


def stored_table(folder: AnyPath) -> str:
    """Describe the latency table of a sweep in words; empty if there is none."""
    try:
        stored = json.loads((folder / TABLE_FILE).read_text())
        errors = {str(name): [float(one) for one in each] for name, each in stored["errors"].items()}
        return table_in_words(str(stored["setting"]), errors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
