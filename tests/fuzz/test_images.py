# SPDX-License-Identifier: Apache-2.0
"""Label and image files of all kinds: read through a data set, prepared for a search, and segmented."""

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from raycomp.data.datasets import open_split
from raycomp.data.evalset import prepare
from raycomp.data.labelled import absent_classes, check_stages
from raycomp.data.samples import IGNORE
from raycomp.settings.evaluation import EvaluationConfig
from raycomp.settings.model_and_data import DataConfig
from tests.fuzz.conftest import FUZZ, FUZZ_LITTLE
from tests.helpers.answers import Given, answer, command, place, untouched
from tests.helpers.strategies import ODD_NAMES, SUFFIXES, image_files

_CLASSES = tuple("abcde")
_LABEL_MODES = ("L", "L", "L", "P", "1", "I", "I;16", "F", "RGB", "LA")
_STEMS = st.one_of(st.sampled_from(["a", "A", "b", "a.b", "a_labels"]), ODD_NAMES)
_FILES = st.lists(st.tuples(_STEMS, st.sampled_from(SUFFIXES), image_files()), max_size=3)
_LABELS = st.lists(st.tuples(_STEMS, st.sampled_from((".png", ".PNG", ".tif")), image_files(_LABEL_MODES)), max_size=3)


def _written(folder: Path, files: list[tuple[str, str, bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, suffix, data in files:
        with suppress(OSError, UnicodeError):  # a name that this file system does not have
            (folder / f"{stem}{suffix}").write_bytes(data)


@FUZZ
@given(images=_FILES, labels=_LABELS, alike=st.booleans(), ignore=st.sampled_from([(), (5,), (7, 8)]))
def test_a_data_set_is_read_or_refused(images, labels, alike, ignore):
    if alike:  # as many labels as images, of the same names
        labels = [(stem, suffix, data) for (stem, _, _), (_, suffix, data) in zip(images, labels, strict=False)]
    with place() as folder:
        _written(folder / "in/images/val", images)
        _written(folder / "in/labels/val", labels)
        data = DataConfig(dataset="folders", root=Path("in"), classes=_CLASSES, ignore=ignore)
        with untouched(folder):
            samples = answer(lambda: open_split(data, "val", 1))
            if samples is None:
                return
            answer(lambda: samples.fingerprint)
            for index in range(len(samples)):
                sample = answer(lambda: samples[index])  # noqa: B023  called at once
                if sample is not None:
                    image, label = sample
                    assert (image.dtype, label.dtype) == (np.uint8, np.uint8)
                    assert image.shape == (*label.shape, 3)
                    assert set(np.unique(label)) <= {*range(len(_CLASSES)), IGNORE}


@FUZZ_LITTLE
@given(
    images=st.lists(image_files(("RGB", "L", "P", "RGBA", "I;16", "CMYK")), min_size=1, max_size=2),
    labels=st.lists(image_files(("L", "P", "1")), min_size=2, max_size=2),
    fits=st.booleans(),
    side=st.sampled_from([None, 32, 33, 40]),
    cache=st.sampled_from(["cache"] * 4 + ["cache/a b/'ü'", "in/images/val/0.png", "/dev/null/x", "a" * 300]),
)
def test_a_set_is_prepared_or_refused(images, labels, fits, side, cache):
    with place() as folder:
        os.environ["RAYCOMP_CACHE"] = cache
        _written(folder / "in/images/val", [(f"{n}", ".png", data) for n, data in enumerate(images)])
        _written(folder / "in/labels/val", [(f"{n}", ".png", data) for n, data in enumerate(labels)])
        if fits:
            for n in range(len(images)):
                with suppress(Exception):
                    size = Image.open(folder / f"in/images/val/{n}.png").size
                    Image.new("L", size, n).save(folder / f"in/labels/val/{n}.png")
        stage = {"clean": 1, "corrupted": 1}
        data = DataConfig(dataset="folders", root=Path("in"), classes=_CLASSES, short_side=side)
        evaluation = EvaluationConfig.model_validate({"search": stage, "full": stage})
        with untouched(folder):
            made = answer(lambda: prepare(data, evaluation, lambda *_: None), seconds=60)
            if made is not None:
                answer(lambda: check_stages(made, evaluation))
                answer(lambda: absent_classes(made.labels.views(), made.classes, "val"))
                assert len(made.images) == 81
                again = prepare(data, evaluation, lambda *_: None)
                assert np.array_equal(again.images.pixels, made.images.pixels)


@FUZZ_LITTLE
@given(images=_FILES, one=st.booleans(), labels=st.booleans())
def test_predict(images, one, labels, given_files: Given):
    with place() as folder:
        _written(folder / "in", images)
        there = sorted((folder / "in").iterdir())
        chosen = f"in/{there[0].name}" if one and there else "in"
        asked = ["predict", "--json", "--out", "out", str(given_files.folder / "export.safetensors")]
        with untouched(folder):
            code, said = command([*asked, *(["--labels"] if labels else []), "--", chosen])
        if code == 0:
            made = json.loads(said[said.index("[") : said.rindex("]") + 1])
            pictures = [one["picture"] for one in made]
            assert len(set(pictures)) == len(made) == (1 if chosen != "in" else len(made))
            assert all(Path(folder, picture).is_file() for picture in pictures)
