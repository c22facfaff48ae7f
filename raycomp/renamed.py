# SPDX-License-Identifier: Apache-2.0
"""Names that changed after version 0.1. Files with the old names are still read, with one warning."""

from collections.abc import Mapping
from typing import Any

FIELDS = {
    ("search", "known"): "baselines",
    ("search", "limit"): "cost_metric",
    ("evaluation", "first"): "early_stopping",
}
"""New names of fields in search spaces and stored sweep settings, by section and old name."""
COLUMNS = {
    "setting": "operating_point",
    "first_clean_miou": "early_clean_miou",
    "first_corrupted_miou": "early_corrupted_miou",
}
"""New names of row columns by old name."""
ORIGINS = {"known": "baseline"}
"""New values of the column `origin` by old value."""


def renamed_fields(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return settings under the new names, and a message per old name: `search.known is now search.baselines`.

    A section with both names is left unchanged, so that validation reports the old one.
    """
    result, messages = dict(settings), []
    for (section, old), new in FIELDS.items():
        values = result.get(section)
        if isinstance(values, dict) and old in values and new not in values:
            result[section] = {new if name == old else name: value for name, value in values.items()}
            messages.append(f"{section}.{old} is now {section}.{new}")
    return result, messages
