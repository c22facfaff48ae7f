"""Names of version 0.1 that are different now. Old files are read under both names, with one warning a file."""

from collections.abc import Mapping
from typing import Any

FIELDS = {
    ("search", "known"): "baselines",
    ("search", "limit"): "cost_metric",
    ("evaluation", "first"): "early_stopping",
}
"""Fields of search spaces and of the settings that a sweep keeps, by section and old name."""
COLUMNS = {
    "setting": "operating_point",
    "first_clean_miou": "early_clean_miou",
    "first_corrupted_miou": "early_corrupted_miou",
}
"""Columns of rows by their old names."""
ORIGINS = {"known": "baseline"}
"""Values of the column `origin` by their old names."""


def renamed_fields(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings under the names of today, and what to tell of each old name: `search.known is now search.baselines`.

    A section that has both names is left as it is, so that validation reports the old one.
    """
    result, told = dict(settings), []
    for (section, old), new in FIELDS.items():
        values = result.get(section)
        if isinstance(values, dict) and old in values and new not in values:
            result[section] = {new if name == old else name: value for name, value in values.items()}
            told.append(f"{section}.{old} is now {section}.{new}")
    return result, told
