# SPDX-License-Identifier: Apache-2.0
"""How far the times of a latency table are off, in words; reading it from a stored table needs no torch."""

import json
import statistics
from collections.abc import Sequence

from raycomp.storage import AnyPath

TABLE_FILE = "latency.json"
"""Name of a sweep's latency table in its folder."""


def error_in_words(errors: Sequence[float]) -> str:
    """Return the median and maximum of relative errors; empty without any."""
    if not errors:
        return ""
    median, most = statistics.median(errors), max(errors)
    return f"{median:.1%} off in the median and {most:.1%} at most, on {len(errors)} models"


def stored_error(folder: AnyPath) -> str:
    """Return the error of a sweep's latency table in words; empty if there is no table, or an older one."""
    try:
        return error_in_words([float(one) for one in json.loads((folder / TABLE_FILE).read_text())["errors"]])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
