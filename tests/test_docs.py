# SPDX-License-Identifier: Apache-2.0
"""The commands, files and headings that the documents name exist."""

import importlib.util
import os
import re
import shlex
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import pytest
import torch
import typer
import yaml

from raycomp.cli import app
from raycomp.compress.apply import compress
from raycomp.config import load
from raycomp.deploy import model as models
from raycomp.deploy.bundle import PROGRAM
from raycomp.merging import ToMe
from raycomp.models import checkpoints
from raycomp.recipe import dense
from raycomp.results.store import Store
from tests.helpers.documents import PAGES, ROOT, blocks, commands, name, prose
from tests.helpers.sweep_views import sweep_view

_INLINE = re.compile(r"`((?:raycomp|python) [^`]+)`")
_LINK = re.compile(r"\]\((?!http)([^)#\s]*)(?:#([^)]+))?\)")
_FOLDERS = "raycomp|jobs|tests|benchmarks|search_spaces|docs|deploy|\\.github"
_FILE = re.compile(
    rf"`((?:{_FOLDERS})/[\w./*-]*|[\w.-]+\.(?:toml|cff)|(?:CHANGELOG|README|SECURITY)\.md|cluster\.yaml)`"
)
_COUNTED = re.compile(r"^\| `(raycomp/\S+)` \| (\d+) \|", re.MULTILINE)
_WIDTH = 100
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def words_of(line: str) -> list[str]:
    """A line's words from `raycomp` or `python` on."""
    found = shlex.split(line, comments=True)
    return found[next(n for n, word in enumerate(found) if word in ("raycomp", "python")) :]


def fenced() -> list[tuple[str, str]]:
    return [(name(page), line) for page in PAGES for line in commands(page)]


def inline() -> list[tuple[str, str]]:
    return [(name(page), line) for page in PAGES for line in _INLINE.findall(prose(page))]


def group(of: typer.Typer) -> click.Group:
    found = typer.main.get_command(of)
    return cast(click.Group, found)


@pytest.fixture
def command_of(monkeypatch):
    """Finds the command that is run, and what it is given; None where that is not read by typer."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def find(words: list[str]) -> tuple[Any, list[str]] | None:
        if words[0] == "raycomp":
            return within(group(app), words[1:])
        script = ROOT / words[1]
        if script.name in PROGRAM:  # in a bundle
            script = ROOT / "raycomp/deploy/template" / script.name
        assert script.is_file(), f"there is no {words[1]}"
        if not re.search(r"typer|raycomp\.cli", script.read_text()):
            return None
        spec = importlib.util.spec_from_file_location(script.stem, script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "app"):
            return within(group(module.app), words[2:])
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


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_links_lead_to_files_and_headings(page):
    wrong = []
    for path, heading in _LINK.findall(prose(page)):
        target = page.parent / path if path else page
        if not target.exists() or (heading and heading not in headings(target)):
            wrong.append(f"{path}#{heading}" if heading else path)
    assert wrong == []


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_exist(page):
    assert [path for path in _FILE.findall(prose(page)) if not any(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_prose_is_wrapped(page):
    if page.name == "gpu.md":  # which a program writes
        return
    lines = prose(page).split("\n")
    assert [line for line in lines if len(line) > _WIDTH and not line.startswith(("|", "!["))] == []


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / path).resolve() for path, _ in _LINK.findall(prose(index))}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - linked == {index}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize(("path", "lines"), _COUNTED.findall((ROOT / "README.md").read_text()))
def test_line_counts_of_the_readme_are_about_right(path, lines):
    assert int(lines) == pytest.approx(len((ROOT / path).read_text().splitlines()), rel=0.1, abs=5)


def test_the_readme_counts_six_files():
    assert len(_COUNTED.findall((ROOT / "README.md").read_text())) == 6


def test_reference_pages_are_rendered_from_the_code(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from render import pages

    stale = [name(page) for page, text in pages().items() if page.read_text() != text]
    assert stale == [], "run `make docs`"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with the model, the image and the sweep that the documents' Python opens."""
    place = tmp_path_factory.mktemp("documents")
    store, view = Store(place / "results" / "streetscenes_vit_micro"), sweep_view()
    store.open(view.config)
    for row in view.rows:
        store.write(row)
    store.lock.drop()
    config = load(ROOT / "search_spaces" / "streetscenes_vit_micro.yaml")
    model = checkpoints.load(checkpoints.locate(config.model.elastic))
    recipe = dense(model.shape).model_copy(update={"merge": ToMe(ratios=(0.1,) * model.shape.depth)})
    classes = tuple(f"class {number}" for number in range(model.shape.classes))
    (place / "models").mkdir()
    card = models.card_of(model, config.data, classes)
    models.save(compress(model, recipe, None), card, place / "models" / "5eb92b8ca6e0.safetensors")
    (place / "docs").symlink_to(ROOT / "docs")
    return place


PYTHON = [(name(page), block) for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize(("page", "block"), PYTHON)
def test_python_in_the_documents_runs(page, block, exported, monkeypatch):
    monkeypatch.chdir(exported)
    held: dict[str, Any] = {}
    exec(compile(block, page, "exec"), held)
    if "labels" in held:
        assert held["labels"].shape == (128, 128)
        assert len(np.unique(held["labels"].numpy())) > 3
    if "front" in held:
        assert list(held["front"].index) == [row.recipe_id for row in sweep_view().front]
        assert held["best"] in held["front"].index
    if "cost" in held:
        assert f"{held['profile'](held['shape'], held['full']).gflops:.4f}" == "0.6295"


def test_the_readme_normalises_as_the_model_was_trained(exported):
    card = models.read_card(exported / "models" / "5eb92b8ca6e0.safetensors")
    assert torch.equal(torch.tensor([card.mean, card.std]), torch.full((2, 3), 0.5))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_targets_of_the_makefile(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {word for line in lines if line.startswith("make ") for word in line.split()[1:] if "=" not in word}
    assert called <= targets
    assert called or path.name == "release.yml"


def test_there_is_a_workflow_for_each_purpose():
    assert {path.stem for path in WORKFLOWS} == {"lint", "tests", "docs", "release"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_targets_of_make_that_are_named_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line.split("#")[0] for block in blocks(page) for line in block.split("\n") if line.startswith("make ")]
    called = [word for line in [*lines, *re.findall(r"`(make [^`]+)`", prose(page))] for word in line.split()[1:]]
    assert {
        word for word in called if "=" not in word and word.isascii() and not word.startswith(("-", '"'))
    } <= targets
