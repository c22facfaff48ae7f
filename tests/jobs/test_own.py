# SPDX-License-Identifier: Apache-2.0
"""docs/guides/own.md as it is written, with a small model and few pictures: from a folder to a recipe."""

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.helpers.documents import ROOT, blocks, commands
from tests.helpers.jobs import execute

PAGE = ROOT / "docs" / "guides" / "own.md"
SIDE = 64


@pytest.fixture
def place(tmp_path) -> Path:
    space = yaml.safe_load(blocks(PAGE, "yaml")[0])
    space["model"] |= {"shape": {"vit": "tiny", "image": [SIDE, SIDE], "classes": 2}, "backbone": None}  # no download
    space["data"]["stride"] = SIDE // 2
    space["evaluation"] = {"search": {"clean": 3, "corrupted": 1}, "full": {"clean": 4, "corrupted": 1}}
    space["search"] |= {"trials": 7, "baselines": ["40%"]}
    space["train"] |= {"steps": 3, "batch": 2, "eval_images": 2}
    (tmp_path / "my_space.yaml").write_text(yaml.safe_dump(space))
    random = np.random.default_rng(0)
    for split, pictures in (("train", 6), ("val", 4)):
        for number in range(pictures):
            labels = np.zeros((SIDE, 96), np.uint8)
            y, x = random.integers(0, 40, 2)
            labels[y : y + 20, x : x + 30] = 1
            labels[:2] = 255
            image = np.where(labels[..., None] == 1, (160, 40, 30), (60, 150, 50)) + random.normal(0, 10, (SIDE, 96, 3))
            for kind, array in (("images", image.clip(0, 255).astype(np.uint8)), ("labels", labels)):
                path = tmp_path / "my_data" / kind / split / f"{number:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return tmp_path


def test_the_page_can_be_followed(place):
    said = {}
    for line in (line for line in commands(PAGE) if not line.startswith("ray ")):  # which needs a cluster
        words = shlex.split(line, comments=True)
        words[0] = str(Path(sys.executable).with_name("raycomp"))
        words = ["barn=0" if word.startswith("barn=") else word for word in words]  # nothing is learned in three steps
        done = execute(place, *words)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said[line] = done.stdout
    assert "barn" in said[next(line for line in said if line.startswith("raycomp pick"))]
    assert (place / "results" / "my_space" / "report.html").is_file()
    assert (place / "my_elastic.safetensors").is_file()
