# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of all kinds, some of them wrong: ours, official ones, policies, backbones, trainings, exports."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as saved

from raycomp.models import checkpoints, tensors
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from tests.conftest import TINY
from tests.fuzz.conftest import FUZZ, FUZZ_LITTLE
from tests.helpers.answers import Given, answer, command, place, untouched
from tests.helpers.strategies import VALUES, changed, damaged, with_fields_changed, with_tensors_changed, yaml_files

_MODEL = dict(Segmenter(TINY, dense(TINY)).state_dict())
_SUFFIXES = st.sampled_from(
    [".safetensors"] * 3 + [".pth", ".pt", ".ckpt", ".bin", ".state", ".SAFETENSORS", "", ".onnx", ".pt2", ".txt"]
)
_VARIANT: dict[str, Any] = {
    "algorithm_kwargs": {"batch_size": 8},
    "net_kwargs": {
        "d_model": TINY.width, "n_heads": TINY.heads, "n_layers": TINY.depth, "patch_size": TINY.patch,
        "image_size": list(TINY.image), "n_cls": TINY.classes, "distilled": True, "normalization": "vit",
        "drop_path_rate": 0.1, "decoder": {"name": "mask_transformer", "n_layers": TINY.decoder_depth},
    },
}  # fmt: skip


def safetensors(right: dict[str, torch.Tensor], header: dict[str, str]) -> st.SearchStrategy[bytes]:
    """Files with these tensors and this header, or something near."""

    @st.composite
    def files(draw: Any) -> bytes:
        held = {
            str(name): tensor.to_dense().contiguous()
            for name, tensor in with_tensors_changed(draw, right).items()
            if isinstance(tensor, torch.Tensor)
        }
        data = saved(held, with_fields_changed(draw, header))
        return damaged(draw, data) if draw(st.integers(0, 7)) == 0 else data

    return files()


def torch_files(right: dict[str, torch.Tensor]) -> st.SearchStrategy[bytes]:
    """Torch checkpoints, as official Segmenter's, timm's and those of a training under way are."""
    shapes: list[Callable[[Any, Any], Any]] = [
        lambda t, _: {"model": t},
        lambda t, _: {"model": t, "epoch": 3},
        lambda t, _: {"state_dict": t},
        lambda t, _: t,
        lambda t, _: {"model": t, "average": {"n_averaged": torch.tensor(1)}},
        lambda t, _: {"model": right, "average": {f"module.{name}": tensor for name, tensor in t.items()}},
        lambda t, draw: {"model": t, "average": draw(VALUES)},
        lambda _, draw: {"model": draw(VALUES)},
        lambda _, draw: draw(VALUES),
        lambda t, _: [t],
        lambda *_: torch.zeros(3),
    ]

    @st.composite
    def files(draw: Any) -> bytes:
        held = draw(st.sampled_from(shapes))(with_tensors_changed(draw, right), draw)
        buffer, zipped = io.BytesIO(), draw(st.integers(0, 3)) > 0
        torch.save(held, buffer, _use_new_zipfile_serialization=zipped)
        return damaged(draw, buffer.getvalue()) if draw(st.integers(0, 7)) == 0 else buffer.getvalue()

    return files()


def _header(given_files: Given, name: str) -> dict[str, str]:
    return tensors.metadata(given_files.folder / name)


def _finite(model: torch.nn.Module) -> None:
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@FUZZ
@given(data=st.data(), suffix=_SUFFIXES, shape=st.sampled_from([None, TINY]))
def test_a_model_loads_or_is_refused(data, suffix, shape, given_files: Given):
    header = _header(given_files, "export.safetensors")
    held = data.draw(st.one_of(safetensors(_MODEL, header), torch_files(_MODEL)))
    variant = data.draw(st.one_of(st.none(), yaml_files(_VARIANT), yaml_files(_VARIANT)))
    with place() as folder:
        path = Path(f"model{suffix}")
        path.write_bytes(held)
        if variant is not None:
            Path("variant.yml").write_bytes(variant)
        with untouched(folder):
            model = answer(lambda: checkpoints.load(path, shape))
            answer(lambda: checkpoints.elastic_space(path))
        if model is not None:
            _finite(model)
            with torch.inference_mode():
                assert model(torch.zeros(1, 3, *model.shape.image)).shape[1] == model.shape.classes


@FUZZ
@given(data=st.data(), elastic=st.booleans())
def test_a_policy_or_an_elastic_model_loads_or_is_refused(data, elastic, given_files: Given):
    name = "export.safetensors" if elastic else "policy.safetensors"
    header = _header(given_files, name) | ({checkpoints.ELASTIC: "{}"} if elastic else {})
    held = data.draw(safetensors(tensors.read(given_files.folder / name), header))
    with place() as folder:
        Path("held.safetensors").write_bytes(held)
        with untouched(folder):
            if elastic:
                answer(lambda: checkpoints.elastic_space(Path("held.safetensors")))
            elif (policy := answer(lambda: checkpoints.load_policy(Path("held.safetensors"), TINY))) is not None:
                _finite(policy)


_ENCODER = {n.removeprefix("encoder."): t for n, t in _MODEL.items() if n.startswith("encoder.")}


@FUZZ
@given(data=st.data(), suffix=_SUFFIXES)
def test_a_backbone_loads_or_is_refused(data, suffix):
    right = _ENCODER | {"pos_embed": torch.zeros(1, 2 + data.draw(st.sampled_from([48, 16, 15, 1])), TINY.width)}
    held = data.draw(st.one_of(safetensors(right, {}), torch_files(right)))
    model = Segmenter(TINY, dense(TINY))
    with place() as folder:
        path = Path(f"backbone{suffix}")
        path.write_bytes(held)
        with untouched(folder):
            answer(lambda: checkpoints.load_backbone(model, None, path))
    _finite(model)


@FUZZ
@given(data=st.data())
def test_predict_with_an_export(data, given_files: Given):
    path = given_files.folder / "export.safetensors"
    held = data.draw(safetensors(tensors.read(path), _header(given_files, path.name)))
    with place() as folder:
        Path("model.safetensors").write_bytes(held)
        Image.fromarray(np.zeros((50, 66, 3), np.uint8)).save("image.png")
        with untouched(folder):
            command(["predict", "model.safetensors", "image.png", "--out", "out", "--labels"])


@pytest.fixture(scope="module")
def others(given_files, tmp_path_factory) -> dict[str, bytes]:
    """The same model as ONNX and as a program."""
    from raycomp.deploy import model as models
    from raycomp.deploy.onnx import export_onnx, export_program
    from tests.conftest import seeded_images

    folder = tmp_path_factory.mktemp("others")
    card, images = models.read_card(given_files.folder / "export.safetensors"), seeded_images(TINY, 1)
    model = models.load(given_files.folder / "export.safetensors")
    export_onnx(model, card, folder / "m.onnx", images)
    export_program(model, card, folder / "m.pt2", images)
    return {suffix: (folder / f"m{suffix}").read_bytes() for suffix in (".onnx", ".pt2")}


@FUZZ_LITTLE
@given(data=st.data(), suffix=st.sampled_from([".onnx", ".pt2"]))
def test_predict_with_another_export(data, suffix, others):
    if suffix == ".pt2" and data.draw(st.booleans()):
        held = _with_facts(others[suffix], data.draw)
    else:
        held = damaged(data.draw, others[suffix])
    with place() as folder:
        Path(f"model{suffix}").write_bytes(held)
        Image.fromarray(np.zeros((50, 66, 3), np.uint8)).save("image.png")
        with untouched(folder):
            command(["predict", f"model{suffix}", "image.png", "--out", "out"])


def _with_facts(program: bytes, draw: Any) -> bytes:
    """A program of which the facts are changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/facts"):
                data = json.dumps(changed(json.loads(data), draw), default=str).encode()
            new.writestr(name, data)
    return buffer.getvalue()
