# SPDX-License-Identifier: Apache-2.0
"""Bundles of a tiny model, and their programs as a deployer runs them."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from raycomp.config import SweepConfig
from raycomp.data.corruptions import SEVERITIES, TYPES
from raycomp.deploy.model import ModelCard
from raycomp.deploy.precision_facts import Precision, PrecisionFacts, PrecisionFigures
from raycomp.deploy.predict import image_files, open_model, predict
from raycomp.jobs.bundling import export_bundle
from raycomp.jobs.exporting_onnx import Written
from raycomp.recipe import Recipe, dense
from raycomp.results.row import Row
from raycomp.results.store import Store
from tests.conftest import TINY
from tests.helpers.deploy import CLASSES
from tests.helpers.per_images import random_images
from tests.helpers.rows import row

CONFIG = SweepConfig.model_validate(
    {"name": "tiny", "model": {"checkpoint": "folder/none.safetensors"}, "data": {"dataset": "camvid"}}
)


def full_row(recipe: Recipe, draw: int, **changes: Any) -> Row:
    """A row of the full stage whose figures are random; one class does not occur."""
    rng = np.random.default_rng(draw)
    images = random_images(draw, classes=len(CLASSES))
    clean, corrupted = images.accuracy()
    by_variant = rng.random((len(TYPES), len(SEVERITIES)))
    return row(
        **{
            "stage": "full",
            "recipe_id": recipe.id,
            "recipe_json": recipe.canonical_json(),
            "clean_miou": clean,
            "corrupted_miou": corrupted,
            "class_iou": [*rng.random(len(CLASSES) - 1), float("nan")],
            "corrupted_by_type": by_variant.mean(1).tolist(),
            "corrupted_by_severity": by_variant.mean(0).tolist(),
            "per_image": images.packed(),
            "gflops": 1.0,
            "gflops_share": 0.5,
            "checkpoint": "0123abcd",
            "dataset": "camvid",
            "dtype": "float32",
            "versions": '{"raycomp": "0.1.9", "numpy": "2", "torch": "2.7"}',
        }
        | changes
    )


@dataclass(frozen=True)
class Sweep:
    """A recipe of a sweep, and its ONNX model, exported before."""

    folder: Path
    recipe: Recipe
    model: Path

    def store(self, *rows: Row) -> None:
        """Make these the rows of the sweep."""
        store = Store(self.folder)
        store.open(CONFIG)
        for one in rows:
            store.write(replace(one, sweep="tiny"))
        store.lock.drop()

    def measured(self, **changes: Any) -> Row:
        """The row of the recipe."""
        return full_row(self.recipe, 1, **changes)

    def dense(self) -> Row:
        return full_row(dense(TINY), 2, origin="reference")

    def bundle(
        self,
        out: Path,
        refined: bool = False,
        models: int = 1,
        figures: Mapping[Precision, PrecisionFigures] | None = None,
        **facts: Any,
    ) -> list[Written]:
        """Bundle copies of the model, with changed facts, and figures of the precisions."""

        def export(folder: Path, say: Any) -> list[Written]:
            names: dict[Precision, str] = {"fp32": f"{self.recipe.id}.onnx", "fp16": f"{self.recipe.id}.fp16.onnx"}
            names = dict(list(names.items())[:models])
            for precision, name in names.items():
                found = PrecisionFacts(precision=precision, figures=(figures or {}).get(precision))
                with_facts(self.model, folder / name, found, **facts)
                say(f"{folder / name}: made")
            return [Written("onnx", folder / name, 1e-6) for name in names.values()]

        said: list[str] = []
        made = export_bundle(self.recipe, CONFIG, self.folder, out, refined, export, said.append)
        assert said[0] == f"{made[0].path}: made"
        return made


def with_facts(model: Path, path: Path, precision: PrecisionFacts, **facts: Any) -> None:
    """Copy an ONNX model, with a precision and changes of the card in its metadata."""
    proto = onnx.load(model)
    held = {entry.key: entry.value for entry in proto.metadata_props}
    card = ModelCard.model_validate_json(held["facts"]).model_copy(update=facts)
    onnx.helper.set_model_props(
        proto, held | {"facts": card.model_dump_json(), "precision": precision.model_dump_json()}
    )
    onnx.save(proto, path)


REFUSED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("raycomp", "torch", "cv2", "onnx", "pydantic"):
            raise ImportError(f"imported {name}")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import runpy
sys.argv = [sys.argv[1] + "/run.py", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Program that runs a bundle's, and refuses to import what a deployer may not have."""


def labels_by_program(bundle: Path, image: Path, *arguments: str, python: Path | None = None) -> np.ndarray:
    """The labels that `run.py` writes: in another Python, or in this one without most of its packages."""
    target = image.with_name(f"{image.stem}-labels.png")
    command = [str(python), str(bundle / "run.py")] if python else [sys.executable, "-c", REFUSED, str(bundle)]
    command += [str(image), str(target), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    with Image.open(target) as labels:
        assert labels.mode == "L"
        return np.array(labels)


def labels_by_predict(model: Path, image: Path) -> np.ndarray:
    """The labels of `raycomp predict`."""
    run, card = open_model(model, torch.device("cpu"))
    [(_, _, labels)] = predict(run, card, image_files(image), torch.device("cpu"))
    return labels


def table(card: str, first: str) -> list[list[str]]:
    """The lines of the card's table whose header starts with a cell, without the header."""
    found = re.search(rf"^\| *{re.escape(first)} *\|.*\n\|[-:|]+\|\n((?:\|.*\n)+)", card, re.MULTILINE)
    assert found is not None, f"no table {first!r}"
    return [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in found[1].splitlines()]
