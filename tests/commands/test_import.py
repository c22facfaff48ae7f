# SPDX-License-Identifier: Apache-2.0
"""`raycomp import`: output, maps of tensor names, factories, and refusals in one line."""

import json
import re
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

import raycomp
from raycomp.cli import app
from raycomp.errors import UserError
from tests.conftest import seeded_images
from tests.helpers.mmseg import CONFIG, IMAGE, mm_file, mm_segmenter
from tests.helpers.originals import hf_folder, randomised, timm_file

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}


def run(*words: object) -> str:
    result = CliRunner().invoke(app, ["import", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: object) -> str:
    with pytest.raises(UserError) as error:
        run(*words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_segmenter_of_mmsegmentation_becomes_a_checkpoint(tmp_path):
    original = mm_segmenter("bn")
    path = mm_file(tmp_path / "m.pth", original, CONFIG.replace("HEAD", "FCNHead"))
    text = run(path, "--out", tmp_path / "ours.safetensors")
    assert "FCNHead of mmsegmentation" in text
    assert "folded: batch norm, into the head" in text
    assert "left: auxiliary_head.weight and 1 more: auxiliary head, used in training only" in text
    assert "not compared with the original" in text
    model = raycomp.load(str(tmp_path / "ours.safetensors"))
    images = seeded_images(model.shape)
    torch.testing.assert_close(model(images), original(images), rtol=0, atol=1e-4)


def test_another_size_resamples_the_positions(tmp_path):
    path = mm_file(tmp_path / "m.pth", mm_segmenter("mask"), CONFIG.replace("HEAD", "SegmenterMaskTransformerHead"))
    text = run(path, "--out", tmp_path / "ours.safetensors", "--image", "64x64")
    assert "folded: positions are resampled from 4x6 to 8x8 patches" in text
    assert raycomp.load(str(tmp_path / "ours.safetensors")).shape.image == (64, 64)


def test_an_encoder_is_compared_with_the_original_and_not_written(tmp_path):
    timm_file(tmp_path, "vit_tiny_patch16_224", **TINY)
    output = json.loads(run(tmp_path / "model.safetensors", "--json"))
    assert output["difference"] < 1e-5
    assert output["shape"] == {"width": 32, "heads": 2, "depth": 2, "patch": 16, "image": [64, 64]}
    assert "equal to the original within" in run(tmp_path / "model.safetensors")
    message = refused(tmp_path / "model.safetensors", "--out", tmp_path / "out.safetensors")
    assert "has no segmentation head; train one, with this file as model.backbone_file" in message
    assert not (tmp_path / "out.safetensors").exists()


def test_a_folder_of_transformers_is_compared(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
    hf_folder(tmp_path, Dinov2Model(Dinov2Config(**sizes)))
    output = json.loads(run(tmp_path, "--json"))
    assert output["difference"] < 1e-5
    assert output["compared"] == "encoder"


def test_what_contradicts_the_file_is_refused(tmp_path):
    timm_file(tmp_path, "vit_tiny_patch16_224", **TINY)
    path = tmp_path / "model.safetensors"
    assert "it has 2 attention heads, not 4" in refused(path, "--heads", 4)
    assert "it has normalization vit, not deit" in refused(path, "--normalization", "deit")
    assert "--normalization imagenet: " in refused(path, "--normalization", "imagenet")
    assert "smaller than one patch of 16 pixels" in refused(path, "--image", "8x64")
    for text in ("64", "64x", "0x64", "axb"):
        assert f"--image {text}: expected height and width" in refused(path, "--image", text)
    assert "a file that ends in .safetensors" in refused(path, "--out", tmp_path / "m.pth")
    assert "would overwrite" in refused(path, "--out", path)


class Own(nn.Module):
    """A custom model with unusual tensor names."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 32, 8, 8)
        self.place = nn.Parameter(torch.zeros(24, 32))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(32, 2, 128, 0.0, "gelu", 1e-6, True, True) for _ in "ab")
        self.last = nn.LayerNorm(32, 1e-6)
        self.out = nn.Parameter(torch.zeros(32, 5))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.cut(images).flatten(2).transpose(1, 2) + self.place
        for layer in self.layers:
            x = layer(x)
        scores = (self.last(x) @ self.out).transpose(1, 2).unflatten(2, (4, 6))
        return {"out": F.interpolate(scores, images.shape[-2:], mode="bilinear")}


MAP = """
shape: {width: 32, heads: 2, depth: 2, patch: 8, image: [32, 48], classes: 5, prefix: 0, decoder: linear}
tensors:
  encoder.patch_embed.proj.weight: cut.weight
  encoder.patch_embed.proj.bias: cut.bias
  encoder.pos_embed: place
  encoder.blocks.*.norm1.weight: layers.*.norm1.weight
  encoder.blocks.*.norm1.bias: layers.*.norm1.bias
  encoder.blocks.*.norm2.weight: layers.*.norm2.weight
  encoder.blocks.*.norm2.bias: layers.*.norm2.bias
  encoder.blocks.*.attn.qkv.weight: [layers.*.self_attn.in_proj_weight]
  encoder.blocks.*.attn.qkv.bias: layers.*.self_attn.in_proj_bias
  encoder.blocks.*.attn.proj.weight: layers.*.self_attn.out_proj.weight
  encoder.blocks.*.attn.proj.bias: layers.*.self_attn.out_proj.bias
  encoder.blocks.*.mlp.fc1.weight: layers.*.linear1.weight
  encoder.blocks.*.mlp.fc1.bias: layers.*.linear1.bias
  encoder.blocks.*.mlp.fc2.weight: layers.*.linear2.weight
  encoder.blocks.*.mlp.fc2.bias: layers.*.linear2.bias
  encoder.norm.weight: last.weight
  encoder.norm.bias: last.bias
  decoder.head.weight: {from: out, transpose: true}
  decoder.head.bias: zero
"""


@pytest.fixture
def own(tmp_path):
    """A folder with a checkpoint of `Own`, its map of names, and a module that builds it."""
    torch.save(randomised(Own()).state_dict(), tmp_path / "own.pth")
    (tmp_path / "names.yaml").write_text(textwrap.dedent(MAP))
    code = f"""
        import torch
        from tests.commands.test_import import Own
        def build():
            model = Own()
            model.load_state_dict(torch.load({str(tmp_path / "own.pth")!r}))
            return model
        def other():
            return Own()
        def fails():
            raise ValueError("no")
        def odd():
            return lambda images: 3
    """
    (tmp_path / "my_model.py").write_text(textwrap.dedent(code))
    return tmp_path


def test_a_custom_model_is_mapped_by_names_and_compared(own, monkeypatch):
    monkeypatch.chdir(own)
    options = ["own.pth", "--map", "names.yaml", "--factory"]
    assert json.loads(run(*options, "my_model:build", "--out", "m.safetensors", "--json"))["difference"] < 1e-5
    assert raycomp.load("m.safetensors").shape.image == IMAGE
    assert "own.pth: differs from the original by" in refused(*options, "my_model:other")
    assert "my_model:fails fails (ValueError: no)" in refused(*options, "my_model:fails")
    assert "the original does not run" in refused(*options, "my_model:odd")
    assert "my_model has no function 'biuld'; did you mean 'build'?" in refused(*options, "my_model:biuld")
    assert "No module named 'nowhere'" in refused(*options, "nowhere:build")
    assert "expected module:function" in refused(*options, "my_model")


def test_tensor_names_in_the_file_and_in_raycomp_are_printed(own):
    text = run(own / "own.pth", "--map", own / "names.yaml", "--names")
    assert "  layers.*.linear1.weight [128, 32]" in text
    assert "  encoder.blocks.*.attn.qkv.weight [96, 32]" in text
    assert "  encoder.blocks.*.attn.qkv.weight [2304, 768]" in run(own / "own.pth", "--names")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("place\n", "plase\n", "tensor 'plase' is missing; did you mean 'place'?"),
        ("  encoder.pos_embed: place\n", "", "tensors lacks 'encoder.pos_embed'; give its name in the file, or `zero`"),
        ("encoder.pos_embed", "encoder.pos_embedd", "tensors lacks 'encoder.pos_embed'"),
        (
            "  encoder.pos_embed:",
            "  encoder.x: cut.bias\n  encoder.pos_embed:",
            "tensors has 'encoder.x': did you mean",
        ),
        ("{from: out, transpose: true}", "out", "out has shape [32, 5]; expected [5, 32], as decoder.head.weight"),
        ("zero", "last.bias", "tensor 'last.bias' is missing"),
        (
            "place\n",
            "zero\n",
            "has no counterpart for tensor 'place' [24, 32] (mapped by names.yaml); map it, or list it under `left`",
        ),
        ("heads: 2", "heads: 3", "field 'shape': width 32 is not a multiple of heads 3"),
        ("transpose: true", "transposed: true", "field 'tensors.decoder.head.weight"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(own, before, after, message):
    assert before in MAP
    (own / "names.yaml").write_text(MAP.replace(before, after, 1))
    assert re.search(re.escape(message), refused(own / "own.pth", "--map", own / "names.yaml"))


def test_a_hub_model_without_a_network_is_refused_in_one_line(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "somebody/some-model: cannot be fetched from http://127.0.0.1:9" in refused("somebody/some-model")
    assert "cannot be read (No such file or directory)" in refused("somebody/model.safetensors")


def test_rotary_positions_are_compared_at_the_files_size_and_saved_at_another(tmp_path):
    from transformers import EomtDinov3Config, EomtDinov3ForUniversalSegmentation

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
    queries = {"num_queries": 6, "num_blocks": 2, "num_labels": 5, "intermediate_size": 64}
    model = EomtDinov3ForUniversalSegmentation(EomtDinov3Config(**sizes, **queries))
    model.attn_mask_probs.zero_()
    hf_folder(tmp_path, model)
    output = json.loads(run(tmp_path, "--out", tmp_path / "out.safetensors", "--image", "64x96", "--json"))
    assert output["difference"] < 1e-4
    loaded = raycomp.load(str(tmp_path / "out.safetensors"))
    assert loaded.shape.image == (64, 96)
    assert loaded(torch.zeros(1, 3, 64, 96)).shape == (1, 5, 64, 96)
