# SPDX-License-Identifier: Apache-2.0
"""The shipped search spaces by name: those of the wheel, or of the checkout in an editable install."""

from importlib import resources
from pathlib import Path

from raycomp.errors import UserError, nearest


def search_spaces() -> dict[str, Path]:
    """Return the files of the shipped search spaces by name."""
    package = Path(str(resources.files("raycomp")))
    folder = package / "search_spaces"
    if not folder.is_dir():
        folder = package.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def space_file(given: str | Path) -> Path:
    """Return the file of a search space by path or shipped name; raise a UserError for a name that is neither."""
    path = Path(given)
    if path.suffix or len(path.parts) != 1 or _exists(path):
        return path
    shipped = search_spaces()
    if path.name not in shipped:
        hint = nearest(path.name, shipped)
        raise UserError(f"search space {str(given)!r}: neither a file nor a shipped name; {hint}")
    return shipped[path.name]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example, a name that is too long: reading it reports that
        return True
