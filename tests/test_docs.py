"""What the documents tell a person to type exists, and so do the files that they point to."""

import importlib.util
import os
import re
import shlex

import click
import pytest
import typer

from raycomp.cli import app
from tests.docs import PAGES, ROOT, commands, prose

_INLINE = re.compile(r"`((?:raycomp|python) [^`]+)`")
_PATH = re.compile(r"\]\((?!http|#)([^)#]+)\)")


def words_of(line: str) -> list[str]:
    """A line's words from `raycomp` or `python` on."""
    found = shlex.split(line, comments=True)
    return found[next(n for n, word in enumerate(found) if word in ("raycomp", "python")) :]


def fenced() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in commands(page)]


def inline() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in _INLINE.findall(prose(page))]


@pytest.fixture
def command_of(monkeypatch):
    """Finds the command that is run, and what it is given; None where that is not read by typer."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def find(words: list[str]) -> tuple[click.Command, list[str]] | None:
        if words[0] == "raycomp":
            return within(typer.main.get_command(app), words[1:])
        script = ROOT / words[1]
        assert script.is_file(), f"there is no {words[1]}"
        if not re.search(r"typer|raycomp\.cli", script.read_text()):
            return None
        spec = importlib.util.spec_from_file_location(script.stem, script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "app"):
            return within(typer.main.get_command(module.app), words[2:])
        job = typer.Typer(add_completion=False)
        job.command()(module.main)
        return typer.main.get_command(job), words[2:]

    return find


@pytest.mark.parametrize("script", sorted((ROOT / "jobs").glob("*.py")), ids=lambda script: script.stem)
def test_importing_a_job_changes_no_environment_variable(script, monkeypatch):
    """A variable such as RAY_AUTH_MODE would reach every Ray that the same process starts later."""
    importlib.import_module("raycomp.search")  # sets Ray's defaults
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = dict(os.environ)
    spec = importlib.util.spec_from_file_location(script.stem, script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert dict(os.environ) == before


def within(group: click.Group, words: list[str]) -> tuple[click.Command, list[str]]:
    if words[0].startswith("-"):
        return group, words
    assert words[0] in group.commands, f"there is no command {words[0]}"
    return group.commands[words[0]], words[1:]


def test_there_are_commands_to_check():
    assert len(fenced()) > 20
    assert len(inline()) > 20


@pytest.mark.parametrize(("page", "line"), fenced())
def test_commands_can_be_typed(command_of, page, line):
    if (found := command_of(words_of(line))) is not None:
        command, arguments = found
        command.make_context(line, arguments)  # which refuses unknown options, values of another type, and too few


@pytest.mark.parametrize(("page", "line"), inline())
def test_options_of_commands_in_the_text_exist(command_of, page, line):
    if (found := command_of(words_of(line))) is not None:
        command, arguments = found
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    missing = [path for path in _PATH.findall(page.read_text()) if not (page.parent / path).exists()]
    assert missing == []
