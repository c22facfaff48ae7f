# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: our own, the official layout, and files that must be refused in one line."""

import pickle
from pathlib import Path

import pytest
import torch

from raycomp.errors import UserError
from raycomp.models import checkpoints
from raycomp.recipe import dense
from tests.conftest import TINY, seeded_images, seeded_model
from tests.helpers.checkpoints import official


@pytest.mark.parametrize("half", [False, True])
def test_own_checkpoint_round_trip(model, tmp_path, half):
    path = tmp_path / "model.safetensors"
    checkpoints.save(model, path, {"seed": "0"}, half)
    loaded = checkpoints.load(path, TINY)
    expected = seeded_model(TINY).half().float() if half else model
    images = seeded_images(TINY)
    assert torch.equal(loaded(images), expected(images))
    assert checkpoints.metadata(path)["seed"] == "0"
    assert not list(tmp_path.glob(".*")), "temporary file left behind"


def test_official_segmenter_checkpoint(tmp_path):
    loaded = checkpoints.load(official(tmp_path))
    assert loaded.shape == TINY.model_copy(update={"norm_eps": 1e-5})
    expected = seeded_model(loaded.shape)
    images = seeded_images(TINY)
    assert torch.equal(loaded(images), expected(images))


def test_variant_yml_runs_no_code(tmp_path):
    path = official(tmp_path)
    (tmp_path / "variant.yml").write_text("net_kwargs: !!python/object/apply:os.system ['touch pwned']")
    with pytest.raises(UserError, match=r"variant\.yml"):
        checkpoints.load(path)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_that_executes_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = official(tmp_path)
    path.write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(UserError, match="refused"):
        checkpoints.load(path)
    assert not (tmp_path / "executed").exists()


def test_truncated_files_are_refused(model, tmp_path):
    ours = tmp_path / "model.safetensors"
    checkpoints.save(model, ours)
    theirs = official(tmp_path)
    for path in (ours, theirs):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=path.name):
            checkpoints.load(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoder.norm.weight": torch.zeros(48)}, r"'encoder.norm.weight' has shape \[48\], the model \[32\]"),
        ({"encoder.surprise": torch.zeros(1)}, "unexpected tensor 'encoder.surprise'"),
    ],
)
def test_mismatching_tensors_are_named(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        checkpoints.load(official(tmp_path, **change))


def test_another_shape_than_the_search_space_wants_is_refused(model, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(model, path)
    with pytest.raises(UserError, match=r"checkpoint has depth 3, the search space model\.shape\.depth 4"):
        checkpoints.load(path, TINY.model_copy(update={"depth": 4}))


def test_missing_file_names_the_nearest_one(model, tmp_path):
    checkpoints.save(model, tmp_path / "segmenter.safetensors")
    with pytest.raises(UserError, match=r"did you mean 'segmenter\.safetensors'"):
        checkpoints.locate(str(tmp_path / "segmentor.safetensors"))


def test_backbone_without_hub_or_file_is_one_line(tmp_path):
    model = seeded_model(TINY)
    with pytest.raises(UserError, match=r"model\.backbone 'no_such_model' cannot be fetched"):
        checkpoints.load_backbone(model, "no_such_model", None)


def test_recipe_of_a_dense_checkpoint_is_dense(model, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(model, path)
    assert checkpoints.load(path).recipe == dense(TINY)
