# SPDX-License-Identifier: Apache-2.0
"""The documents' own code blocks, for the tests that check or run them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(raycomp|python|ray job submit) ")


def blocks(page: Path, kind: str = "") -> list[str]:
    """The fenced blocks of a kind."""
    return [block for found, block in _FENCE.findall(page.read_text()) if found == kind]


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks that run something of ours, continued lines as one."""
    lines = [line for block in blocks(page) for line in re.sub(r"\\\n\s*", "", block).split("\n")]
    return [line for line in lines if _COMMAND.match(line)]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text())


def name(page: Path) -> str:
    """A page's path in the repository."""
    return str(page.relative_to(ROOT))
