# SPDX-License-Identifier: Apache-2.0
"""Weights that load, and those that are refused in one line that names the tensor or the kind of file."""

import json
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from raycomp.errors import UserError
from raycomp.models import checkpoints, tensors
from raycomp.models.policy import Policy
from tests.conftest import TINY, seeded_images, seeded_model
from tests.helpers.checkpoints import official

Broken = TypeVar("Broken", bound=torch.nn.Module)


def broken(module: Broken, name: str, value: float) -> Broken:
    with torch.no_grad():
        module.get_parameter(name).view(-1)[3] = value
    return module


def own(folder: Path, value: float) -> None:
    checkpoints.save(broken(seeded_model(TINY), "encoder.norm.weight", value), folder / "m.safetensors")
    checkpoints.load(folder / "m.safetensors")


def halved(folder: Path, value: float) -> None:
    """A weight that is finite in float32 and not in the float16 that is stored."""
    model = broken(seeded_model(TINY), "encoder.norm.weight", 1e6 if value == float("inf") else value)
    checkpoints.save(model, folder / "m.safetensors", half=True)
    checkpoints.load(folder / "m.safetensors")


def of_authors(folder: Path, value: float) -> None:
    norm = broken(seeded_model(TINY), "encoder.norm.weight", value).encoder.norm.weight.detach()
    checkpoints.load(official(folder, **{"encoder.norm.weight": norm}))


def too_large(folder: Path, value: float) -> None:
    """A float64 that float32 cannot hold."""
    norm = torch.ones(32, dtype=torch.float64)
    norm[3] = 1e300 if value == float("inf") else value
    checkpoints.load(official(folder, **{"encoder.norm.weight": norm}))


def policy(folder: Path, value: float) -> None:
    checkpoints.save_policy(broken(Policy("small", TINY.patch), "head.weight", value), folder / "p.safetensors", {})
    checkpoints.load_policy(folder / "p.safetensors", TINY)


def backbone(folder: Path, value: float) -> None:
    model = broken(seeded_model(TINY), "encoder.norm.weight", value)
    torch.save(model.encoder.state_dict(), folder / "backbone.bin")
    checkpoints.load_backbone(seeded_model(TINY), None, folder / "backbone.bin")


def state(folder: Path, value: float) -> None:
    model = broken(seeded_model(TINY), "encoder.norm.weight", value)
    torch.save({"model": model.state_dict()}, folder / "m.state")
    checkpoints.load(folder / "m.state", TINY)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("load", [own, halved, of_authors, too_large, policy, backbone, state])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, load, value):
    with pytest.raises(UserError, match=r"tensor '[a-z.]+weight' is not finite: 1 of \d+ values are NaN or infinite"):
        load(tmp_path, value)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ".bin", ".safetensors", ""])
def test_a_torch_checkpoint_is_recognised_by_its_bytes(tmp_path, suffix):
    path = official(tmp_path).rename(tmp_path / f"checkpoint{suffix}")
    images = seeded_images(TINY)
    assert torch.equal(checkpoints.load(path)(images), seeded_model(checkpoints.load(path).shape)(images))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".model"])
def test_a_raycomp_checkpoint_is_recognised_by_its_bytes(model, tmp_path, suffix):
    checkpoints.save(model, tmp_path / "m.safetensors")
    path = (tmp_path / "m.safetensors").rename(tmp_path / f"m{suffix}")
    assert torch.equal(checkpoints.load(path)(seeded_images(TINY)), model(seeded_images(TINY)))


@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_a_backbone_is_found_in_a_training_checkpoint(tmp_path, key):
    weights, path = seeded_model(TINY, seed=1).encoder.state_dict(), tmp_path / "backbone.ckpt"
    torch.save(weights if key is None else {key: weights, "epoch": 3}, path)
    model = seeded_model(TINY)
    checkpoints.load_backbone(model, None, path)
    assert all(torch.equal(model.encoder.state_dict()[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.safetensors", b"", "the file is empty; expected weights in a .safetensors file, or in torch's .pth"),
        ("text.pth", b"version https://git-lfs", "neither safetensors nor a torch checkpoint; expected weights"),
        ("short.bin", b"PK", "neither safetensors nor a torch checkpoint"),
        ("zip.ckpt", b"PK\x03\x04 nothing", "without a variant.yml beside it; expected a .safetensors written"),
        ("m.onnx", b"\x08\x07", "an ONNX graph, which `raycomp predict` runs; expected weights in a .safetensors file"),
        ("m.pt2", b"PK\x03\x04", "a torch.export program, which `raycomp predict` runs; expected weights"),
        ("long.safetensors", b"\x80\xff\0\0\0\0\0\0{}", "not a readable safetensors file"),
    ],
)
def test_another_file_is_refused_by_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        checkpoints.load(tmp_path / name)
    assert message in str(refused.value)
    assert str(tmp_path / name) in str(refused.value)


def test_a_folder_and_a_missing_file_are_refused(model, tmp_path):
    with pytest.raises(UserError, match="a folder; expected weights in a"):
        checkpoints.load(tmp_path)
    checkpoints.save(model, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\); did you mean 'model.safete"):
        checkpoints.load(tmp_path / "modle.safetensors")


@pytest.mark.parametrize("content", [b"PK\x03\x04 nothing", b"\x80\x02 nothing", b"\x80\x04K\x01.", b"\x80"])
def test_a_damaged_torch_file_is_one_line(tmp_path, content):
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.pth: ") as refused:
        tensors.read(tmp_path / "m.pth")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", ["shape", "recipe"])
def test_a_header_without_a_field_is_one_line(model, tmp_path, field):
    path = tmp_path / "m.safetensors"
    checkpoints.save(model, path)
    header = checkpoints.metadata(path)
    del header[field]
    save_file(load_file(path), path, header)
    with pytest.raises(UserError, match=r"m\.safetensors: field '\w+' is missing"):
        checkpoints.load(path)
    save_file(load_file(path), path, header | {field: json.dumps([1])})
    with pytest.raises(UserError, match=r"m\.safetensors: "):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("patch", None, "field 'patch' is missing"),
        ("patch", "x", "field 'patch': input should be a valid integer"),
        ("kind", None, "field 'kind' is missing"),
        ("kind", "large", "field 'kind': input should be 'efficientnet_lite0' or 'small', not 'large'"),
    ],
)
def test_the_header_of_a_policy_is_checked(tmp_path, field, value, message):
    path = tmp_path / "p.safetensors"
    checkpoints.save_policy(Policy("small", TINY.patch), path, {})
    header = {**checkpoints.metadata(path), field: value}
    save_file(load_file(path), path, {name: text for name, text in header.items() if text is not None})
    with pytest.raises(UserError, match=rf"p\.safetensors: {message}"):
        checkpoints.load_policy(path, TINY)


def test_the_space_of_an_elastic_model_is_checked(model, tmp_path):
    checkpoints.save(model, tmp_path / "m.safetensors", {checkpoints.ELASTIC: '{"mlp": 3}'})
    with pytest.raises(UserError, match=r"m\.safetensors: field 'elastic': field 'mlp'"):
        checkpoints.elastic_space(tmp_path / "m.safetensors")


def test_a_recipe_beyond_its_shape_and_a_shape_beyond_its_tensors_are_refused(model, tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoints.save(model, path)
    header = checkpoints.metadata(path)
    small = TINY.model_copy(update={"depth": 2})
    save_file(load_file(path), path, header | {"shape": small.model_dump_json()})
    with pytest.raises(UserError, match=r"m\.safetensors: recipe: field 'blocks' has 3 entries, the model 2 blocks"):
        checkpoints.load(path)
    huge = TINY.model_copy(update={"image": (65536, 65536), "patch": 1})  # terabytes, were it made before it is checked
    save_file(load_file(path), path, header | {"shape": huge.model_dump_json()})
    with pytest.raises(UserError, match=r"m\.safetensors: tensor 'encoder\.pos_embed' has shape"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(32).to_sparse(), "is float32, sparse_coo; expected plain numbers"),
        (torch.ones(32, dtype=torch.complex64), "is complex64, strided; expected plain numbers"),
        (torch.ones(32, device="meta"), "is without data; expected plain numbers"),
    ],
)
def test_tensors_without_plain_numbers_are_refused_by_name(tmp_path, tensor, message):
    torch.save({"encoder.norm.bias": tensor}, tmp_path / "m.pth")
    with pytest.raises(UserError, match=rf"m\.pth: tensor 'encoder\.norm\.bias' {message}"):
        tensors.read(tmp_path / "m.pth")


@pytest.mark.parametrize("state_dict", [{"model": 3}, {"model": {1: torch.ones(1)}}, {"model": {}, "average": [1]}])
def test_the_state_of_a_training_is_checked(tmp_path, state_dict):
    torch.save(state_dict, tmp_path / "m.state")
    with pytest.raises(UserError, match=r"m\.state: has no 'model' dictionary of tensors"):
        checkpoints.load(tmp_path / "m.state", TINY)


@pytest.mark.parametrize("size", [(), (1, 17, 32), (1, 18, 16), (18, 32), (1, 2, 32)])
def test_backbone_positions_that_fit_no_square_grid_are_refused(model, tmp_path, size):
    own = {n.removeprefix("encoder."): t for n, t in model.state_dict().items() if n.startswith("encoder.")}
    save_file(own | {"pos_embed": torch.zeros(size)}, tmp_path / "b.safetensors")
    with pytest.raises(
        UserError, match=r"b\.safetensors: tensor 'pos_embed' has shape .* expected \[1, 2 \+ a square, 32"
    ):
        checkpoints.load_backbone(seeded_model(TINY), None, tmp_path / "b.safetensors")
