"""The search spaces that come with raycomp, by name: those of the wheel, or of the checkout of an editable install."""

from importlib import resources
from pathlib import Path

from raycomp.errors import UserError, nearest


def search_spaces() -> dict[str, Path]:
    """Files of the search spaces that are shipped, by name."""
    package = Path(str(resources.files("raycomp")))
    folder = package / "search_spaces"
    if not folder.is_dir():
        folder = package.parent / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def space_file(given: str | Path) -> Path:
    """The file of a search space that is given by its path, or by its name where it is a shipped one.

    Raises:
        UserError: for a name that is neither.
    """
    path = Path(given)
    if path.suffix or len(path.parts) != 1 or _exists(path):
        return path
    there = search_spaces()
    if path.name not in there:
        raise UserError(f"search space {str(given)!r}: neither a file nor a shipped one; {nearest(path.name, there)}")
    return there[path.name]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, for example: reading it says so
        return True
