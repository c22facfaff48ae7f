# SPDX-License-Identifier: Apache-2.0
"""Evaluation sets: cached whole, nested stages, seeded."""

import pwd
from pathlib import Path

import numpy as np
import pytest

from raycomp.data.corruptions import VARIANTS, corrupt
from raycomp.data.evalset import CLEAN, Stack, cache_folder, prepare
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.settings.evaluation import EvaluationConfig, StageConfig
from raycomp.settings.model_and_data import DataConfig

DATA = DataConfig(dataset="streetscenes")
SMALL = EvaluationConfig(search=StageConfig(clean=2, corrupted=1), full=StageConfig(clean=3, corrupted=2))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCOMP_CACHE", str(folder))
        reports: list[int] = []
        first = prepare(DATA, SMALL, lambda done, total: reports.append(done))
        again = prepare(DATA, SMALL, lambda done, total: pytest.fail("made twice"))
    assert len(reports) == 80
    assert [p.name for p in folder.iterdir()] == [f"evalset-{first.fingerprint}"]
    return first, again


def test_cached_set_is_the_made_one(made):
    first, again = made
    assert np.array_equal(first.images.pixels, again.images.pixels)
    assert first.fingerprint == again.fingerprint


def test_every_image_is_what_its_index_says(made):
    data, scenes = made[0], StreetScenes("val", 3)
    images, labels = data.images.views(), data.labels.views()
    for i in (0, 2, 3, 4, 50, 162):
        source, label = scenes[int(data.label_of[i])]
        assert np.array_equal(labels[data.label_of[i]][..., 0], label)
        if data.variants[i] == CLEAN:
            assert np.array_equal(images[i], source)
        else:
            kind, severity = VARIANTS[data.variants[i]]
            assert np.array_equal(images[i], corrupt(source, kind, severity, seed=int(data.label_of[i])))


def test_variants_take_turns_with_the_images(made):
    data = made[0]
    per_variant = [set(data.label_of[data.variants == v]) for v in range(80)]
    assert all(len(images) == 2 for images in per_variant)
    assert set.union(*per_variant) == {0, 1, 2}


def test_search_stage_is_a_subset_of_the_full_one(made):
    data = made[0]
    search, full = set(data.chosen(SMALL.search)), set(data.chosen(SMALL.full))
    assert search < full
    assert len(search) == 2 + 80
    assert len(full) == 3 + 160


def test_a_stage_can_keep_to_some_severities(made):
    data = made[0]
    chosen = data.chosen(StageConfig(clean=1, corrupted=1, severities=(1, 5)))
    severities = {VARIANTS[v][1] for v in data.variants[chosen] if v != CLEAN}
    assert severities == {1, 5}
    assert len(chosen) == 1 + 32


@pytest.mark.parametrize(
    ("settings", "images", "originals"),
    [
        ({}, (128, 128), None),
        ({"short_side": 64}, (64, 64), (128, 128)),
        ({"short_side": 100, "long_side": 100}, (100, 100), (128, 128)),
    ],
)
def test_labels_are_kept_at_their_own_size_beside_resized_images(settings, images, originals, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCOMP_CACHE", str(tmp_path))
    one = StageConfig(clean=1, corrupted=1)
    data = DataConfig(dataset="streetscenes", **settings)
    first, again = (prepare(data, EvaluationConfig(search=one, full=one), lambda done, total: None) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    for made in (first, again):
        assert made.images.views()[0].shape == (*images, 3)
        assert made.labels.views()[0].shape == (*images, 1)
        if originals is None:
            assert made.originals is None
        else:
            assert np.array_equal(made.originals.views()[0][..., 0], StreetScenes("val", 1)[0][1])


def test_stack_holds_images_of_any_size():
    images = [np.arange(24, dtype=np.uint8).reshape(2, 4, 3), np.arange(27, dtype=np.uint8).reshape(3, 3, 3)]
    for view, image in zip(Stack.of(images).views(), images, strict=True):
        assert np.array_equal(view, image)


def test_more_search_than_full_images_is_refused():
    config = EvaluationConfig(search=StageConfig(clean=4, corrupted=1), full=SMALL.full)
    with pytest.raises(UserError, match=r"evaluation\.search\.clean is 4; at most evaluation\.full\.clean, 3"):
        prepare(DATA, config, lambda done, total: None)


def test_a_user_without_a_home_needs_a_cache_folder(monkeypatch):
    """Containers may run as a user that is in no list."""

    def unknown(_):
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME", "RAYCOMP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(UserError, match="set RAYCOMP_CACHE to a folder"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/raycomp")
    monkeypatch.setenv("RAYCOMP_CACHE", "/y")
    assert cache_folder() == Path("/y")


def test_a_cache_that_cannot_be_written_is_told_before_it_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYCOMP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot write the evaluation cache \(Not a directory\)"):
        prepare(DATA, SMALL, lambda *_: pytest.fail("corrupted in vain"))
