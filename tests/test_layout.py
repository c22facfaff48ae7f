# SPDX-License-Identifier: Apache-2.0
"""Where code lies: tests share by helpers, names of modules are unambiguous, and files stay readable in one go."""

import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PRODUCT = sorted((ROOT / "raycomp").rglob("*.py"))
MODULES = [path for path in PRODUCT if path.stem != "__init__"]
PACKAGES = [path.parent for path in PRODUCT if path.stem == "__init__"]
LONGEST = 350  # lines
LONGEST_COMMAND = 40  # lines of a function, its signature included


def imported(path: Path) -> set[str]:
    """Every part of every name that a file imports, as in `from a.b import c` those of a.b.c."""
    parts: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            parts.update(part for name in node.names for part in name.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            parts.update((node.module or "").split("."), (name.name for name in node.names))
    return parts


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_test_imports_from_another():
    """What they share is in tests/helpers or a conftest.py."""
    modules = {path.stem for path in TESTS if path.stem.startswith(("test_", "check_"))}
    assert {relative(path): both for path in TESTS if (both := imported(path) & modules)} == {}


def test_no_two_modules_have_one_name():
    counted = Counter(path.stem for path in MODULES)
    assert {name for name, times in counted.items() if times > 1} == set()


def test_no_module_or_package_shadows_the_standard_library():
    names = {path.stem: relative(path) for path in [*MODULES, *PACKAGES]}
    assert {names[name] for name in names.keys() & sys.stdlib_module_names} == set()


def test_no_file_is_too_long_to_read():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in PRODUCT}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST} == {}


def test_no_function_of_a_command_is_too_long_to_read():
    lengths = {
        f"{relative(path)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in (ROOT / "raycomp" / "commands").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_COMMAND} == {}


def test_no_file_holds_two_sides_of_a_merge():
    kept = {".py", ".md", ".yaml", ".toml", ".txt", ".html"}
    folders = ("raycomp", "jobs", "tests", "benchmarks", "docs", "search_spaces", "deploy")
    found = [*ROOT.iterdir(), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    texts = [path for path in found if path.suffix in kept]
    assert len(texts) > len(PRODUCT)
    assert [relative(path) for path in texts if any(line[:7] == "<" * 7 for line in path.open())] == []
