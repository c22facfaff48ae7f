# SPDX-License-Identifier: Apache-2.0
"""Search spaces and recipes as people write them: `raycomp profile`, `explain`, and a sweep's `--dry-run`."""

import os
import shutil
from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from raycomp import config as configs
from raycomp.recipe import dense
from tests.conftest import TINY
from tests.fuzz.conftest import FUZZ
from tests.helpers.answers import Given, answer, command, place, untouched
from tests.helpers.strategies import SPACE, yaml_files


@FUZZ
@given(data=yaml_files(SPACE))
def test_a_file_is_read_or_refused(data):
    with place() as folder:
        (folder / "space.yaml").write_bytes(data)
        with untouched(folder):
            answer(lambda: configs.load(Path("space.yaml")))


@FUZZ
@given(data=yaml_files({key: SPACE[key] for key in ("name", "model", "data", "space", "search", "policy")}))
def test_profile(data, given_files: Given):
    with place() as folder:
        _link(given_files, folder)
        (folder / "space.yaml").write_bytes(data)
        with untouched(folder):
            command(["profile", "space.yaml", "--tome", "1,2", "--cts", "0.3"])


@FUZZ
@given(data=yaml_files(SPACE))
def test_dry_run(data, given_files: Given):
    with place() as folder:
        _link(given_files, folder)
        (folder / "space.yaml").write_bytes(data)
        with untouched(folder):
            command(["search", "--space", "space.yaml", "--dry-run", "--results", "out"])


_RECIPE = dense(TINY).model_dump(mode="json")


_MERGES = [
    None,
    {"method": "tome", "ratios": [0.25, 0.0, 0.5]},
    {"method": "algm", "blocks": [1, 2], "windows": 0.5, "pairs": 0.25},
    {"method": "algm", "blocks": [1, 2], "threshold": 0.5},
    {"method": "cts", "share": 0.3, "policy": "small"},
]


@FUZZ
@given(data=st.sampled_from(_MERGES).flatmap(lambda merge: yaml_files(_RECIPE | {"merge": merge})))
def test_explain_a_recipe_file(data, given_files: Given):
    with place() as folder:
        _link(given_files, folder)
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
        (folder / "recipe.yaml").write_bytes(data)
        with untouched(folder):
            command(["explain", "recipe.yaml", "--space", "space.yaml"])


@FUZZ
@given(data=st.data())
def test_settings_of_a_sweep_that_were_edited(data, given_files: Given):
    """Someone opened `sweep.yaml`."""
    text = (given_files.folder / "results/tiny/sweep.yaml").read_text()
    held = data.draw(yaml_files(configs.parsed(text)))
    name = data.draw(st.sampled_from(["front", "status", "report", "compare", "pick"]))
    more = {"compare": ["tiny"], "pick": ["--max-share", "60%"], "report": ["--out", "out/a.html"]}.get(name, [])
    with place() as folder:
        shutil.copytree(given_files.folder / "results", folder / "results")
        (folder / "results/tiny/sweep.yaml").write_bytes(held)
        with untouched(folder):
            command([name, "tiny", *more])


def _link(given_files: Given, folder: Path) -> None:
    (folder / "in").mkdir()
    os.link(given_files.folder / "export.safetensors", folder / "in" / "export.safetensors")
