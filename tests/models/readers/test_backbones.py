# SPDX-License-Identifier: Apache-2.0
"""Backbones for training: positions are resampled by grid, and a mismatch is refused in one line."""

import json
import logging
import re
import time

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from raycomp.errors import UserError
from raycomp.models import checkpoints
from raycomp.models._timm import create_model
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from raycomp.shape import ModelShape
from tests.helpers.originals import randomised, timm_file

SHAPE = ModelShape(width=32, heads=2, depth=2, patch=16, image=(64, 64), classes=3, decoder="linear")
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}


def changed(**fields: object) -> Segmenter:
    shape = ModelShape.model_validate(SHAPE.model_dump() | fields)
    return Segmenter(shape, dense(shape)).eval()


@pytest.mark.parametrize("image", [(32, 128), (48, 80), (64, 64), (96, 128)])
def test_positions_are_resampled_by_grid(tmp_path, image):
    """Also where another grid has as many patches: 2x8 instead of 4x4."""
    original, path = timm_file(tmp_path, "vit_tiny_patch16_224", **TINY)
    model = changed(image=image)
    checkpoints.load_backbone(model, None, path)
    grid = original.pos_embed[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    rows = (image[0] // 16, image[1] // 16)
    expected = F.interpolate(grid, rows, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.encoder.pos_embed[:, 1:], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.encoder.pos_embed[:, :1], original.pos_embed[:, :1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefix": 2}, "the backbone has prefix 1, model.shape.prefix is 2"),
        ({"prefix": 0}, "the backbone has prefix 1, model.shape.prefix is 0"),
        ({"prefix": 5, "registers": 4}, "the backbone has prefix 1, model.shape.prefix is 5"),
        ({"patch": 8}, "the backbone has patch 16, model.shape.patch is 8"),
        ({"patch": 14, "image": [56, 56]}, "the backbone has patch 16, model.shape.patch is 14"),
        ({"width": 64}, "the backbone has width 32, model.shape.width is 64"),
        ({"depth": 3}, "the backbone has depth 2, model.shape.depth is 3"),
        ({"heads": 4}, "it has 2 attention heads, not 4"),
        ({"mlp_width": 64}, "the backbone has mlp 128, model.shape.mlp is 64"),
        ({"position": "rotary"}, "the backbone has position learned, model.shape.position is rotary"),
        ({"activation": "swiglu"}, "the backbone has activation gelu, model.shape.activation is swiglu"),
        ({"qk_norm": True}, "the backbone has qk_norm False, model.shape.qk_norm is True"),
    ],
)
def test_a_mismatched_backbone_is_refused_in_one_line(tmp_path, fields, message):
    _, path = timm_file(tmp_path, "vit_tiny_patch16_224", **TINY)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        checkpoints.load_backbone(changed(**fields), None, path)
    assert str(path) in str(refused.value)


def test_a_pixel_mean_other_than_the_backbones_is_warned_about(tmp_path, caplog):
    _, path = timm_file(tmp_path, "vit_tiny_patch16_224", **TINY)
    with caplog.at_level(logging.WARNING, logger="raycomp"):
        checkpoints.load_backbone(changed(), None, path)
        assert not caplog.records
        checkpoints.load_backbone(changed(normalization="deit"), None, path)
    assert "the backbone has normalization vit, model.shape.normalization is deit" in caplog.text


def test_heads_implied_by_the_file_name_are_checked(tmp_path):
    model = randomised(create_model("vit_tiny_patch16_224", pretrained=False, depth=1))
    save_file(model.state_dict(), tmp_path / "vit_tiny_patch16_224.safetensors")
    shape = {"width": 192, "depth": 1, "image": (224, 224)}
    checkpoints.load_backbone(changed(heads=3, **shape), None, tmp_path / "vit_tiny_patch16_224.safetensors")
    with pytest.raises(UserError, match="it has 3 attention heads, not 6"):
        checkpoints.load_backbone(changed(heads=6, **shape), None, tmp_path / "vit_tiny_patch16_224.safetensors")
    save_file(model.state_dict(), tmp_path / "unnamed.safetensors")
    checkpoints.load_backbone(changed(heads=6, **shape), None, tmp_path / "unnamed.safetensors")


def test_an_incomplete_backbone_names_what_is_missing(tmp_path):
    original, path = timm_file(tmp_path, "vit_tiny_patch16_224", **TINY)
    weights = original.state_dict()
    for prefix, message in (
        ("blocks.0.", "block 0 of the encoder is missing"),
        ("blocks.1.attn.proj.weight", "tensor 'blocks.1.attn.proj.weight' is missing"),
        ("norm.weight", "tensor 'norm.weight' is missing"),
        ("cls_token", "expected [1, 0 + a square, 32]"),
    ):
        save_file({name: t for name, t in weights.items() if not name.startswith(prefix)}, path)
        with pytest.raises(UserError, match=re.escape(message)):
            checkpoints.load_backbone(changed(), None, path)


def test_a_raycomp_model_can_be_a_backbone(tmp_path):
    source = changed(classes=7)
    checkpoints.save(source, tmp_path / "m.safetensors")
    model = changed()
    checkpoints.load_backbone(model, None, tmp_path / "m.safetensors")
    name = "encoder.blocks.1.mlp.fc1.weight"
    assert torch.equal(model.get_parameter(name), source.get_parameter(name))


def test_a_hub_backbone_without_a_network_is_refused_in_seconds(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"model\.backbone 'vit_tiny_patch16_224' cannot be fetched .*backbone_file"):
        checkpoints.load_backbone(changed(), "vit_tiny_patch16_224", None)
    assert time.perf_counter() - start < 10


def test_a_bad_configuration_is_refused(tmp_path):
    _, path = timm_file(tmp_path, "vit_tiny_patch16_224", **TINY)
    for text, message in (
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object"),
        (json.dumps({"architecture": "vit_tny"}), "has no model 'vit_tny'"),
        (json.dumps({"architecture": "resnet50"}), "resnet50 is not a plain ViT"),
        (json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": {"wide": 3}}), "timm cannot build"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=re.escape(message)):
            checkpoints.load_backbone(changed(), None, path)
