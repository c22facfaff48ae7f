# SPDX-License-Identifier: Apache-2.0
"""Official DINO files, linear heads on encoders, and refusals that name a tensor or a field."""

import json
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from raycomp.errors import UserError
from raycomp.models._timm import create_model
from raycomp.models.importing import built
from tests.helpers.originals import hf_folder, pixels, randomised, read

SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 56}


def dino2(name: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Return timm's DINOv2 of this name, and its weights in Meta's names: the CLS token has its own position."""
    model = randomised(create_model(name, pretrained=False, **SMALL))
    weights = {}
    for key, tensor in model.state_dict().items():
        weights[key.replace("reg_token", "register_tokens").replace(".mlp.fc1.", ".mlp.w12.")] = tensor
    if "giant" not in name:
        weights = {key.replace(".mlp.w12.", ".mlp.fc1."): tensor for key, tensor in weights.items()}
    else:
        weights = {key.replace(".mlp.fc2.", ".mlp.w3."): tensor for key, tensor in weights.items()}
    if weights["pos_embed"].shape[1] == 16:
        cls = weights["cls_token"] * 0.25
        weights["cls_token"], weights["pos_embed"] = (
            weights["cls_token"] - cls,
            torch.cat([cls, weights["pos_embed"]], dim=1),
        )
    return model, {**weights, "mask_token": torch.ones(1, 32)}


@pytest.mark.parametrize(
    "name", ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_giant_patch14_reg4_dinov2"]
)
def test_official_dinov2_files_equal_the_original(tmp_path, name):
    original, weights = dino2(name)
    torch.save(weights, tmp_path / "dinov2_vits14_pretrain.pth")
    translation = read(tmp_path / "dinov2_vits14_pretrain.pth", heads=2)
    assert translation.shape.normalization == "deit"
    assert translation.left == ("mask_token: mask token of pretraining",)
    with torch.inference_mode():
        features = built(translation, tmp_path).encoder(pixels(translation))[0]
        torch.testing.assert_close(features, original.forward_features(pixels(translation)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3_qkvb"])
def test_official_dinov3_files_equal_the_original(tmp_path, name):
    arguments = SMALL | {"img_size": 64}
    original = randomised(create_model(name, pretrained=False, **arguments))
    names = {"reg_token": "storage_tokens", ".gamma_1": ".ls1.gamma", ".gamma_2": ".ls2.gamma"}
    if "plus" in name:
        names |= {".mlp.fc1_g.": ".mlp.w1.", ".mlp.fc1_x.": ".mlp.w2.", ".mlp.fc2.": ".mlp.w3."}
    weights = {}
    for key, tensor in original.state_dict().items():
        for timm_part, meta_part in names.items():
            key = key.replace(timm_part, meta_part)
        weights[key] = tensor
    for index in range(2):  # the key bias is nonzero, and the mask sets it to zero
        q, v = (weights.pop(f"blocks.{index}.attn.{part}_bias") for part in "qv")
        weights[f"blocks.{index}.attn.qkv.bias"] = torch.cat([q, torch.ones(32), v])
        weights[f"blocks.{index}.attn.qkv.bias_mask"] = torch.cat([torch.ones(32), torch.zeros(32), torch.ones(32)])
    weights["rope_embed.periods"] = 100.0 ** (torch.arange(4) / 4)
    torch.save(weights, tmp_path / "dinov3.pth")
    translation = read(tmp_path / "dinov3.pth", image=(64, 64))
    assert (translation.shape.heads, translation.shape.rope_base, translation.shape.norm_eps) == (2, 100.0, 1e-5)
    with torch.inference_mode():
        features = built(translation, tmp_path).encoder(pixels(translation))[0]
        torch.testing.assert_close(features, original.forward_features(pixels(translation)), rtol=1e-4, atol=1e-4)
    weights["rope_embed.periods"] = torch.linspace(1, 30, 4)
    torch.save(weights, tmp_path / "dinov3.pth")
    with pytest.raises(UserError, match="4 rotary periods from 1 to 30; expected 4 powers of one base"):
        read(tmp_path / "dinov3.pth", image=(64, 64))


@pytest.mark.parametrize("place", ["decode_head", "head", "classifier"])
@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "deit3_small_patch16_224"])
def test_linear_heads_on_timm_encoders_equal_the_original(tmp_path, name, place):
    model = nn.Module()
    arguments = SMALL | {"img_size": 56 if "patch14" in name else 64}
    model.backbone = create_model(name, pretrained=False, num_classes=0, **arguments)
    head = nn.Module()
    if place == "decode_head":
        head.bn, head.conv_seg = nn.BatchNorm2d(32), nn.Conv2d(32, 5, 1)
        model.decode_head = head
    else:
        model.add_module(place, nn.Linear(32, 5) if place == "head" else nn.Conv2d(32, 5, 1, bias=False))
    randomised(model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "m.pth")
    translation = read(tmp_path / "m.pth", heads=2, normalization="deit")
    assert translation.has_head
    images = pixels(translation)
    with torch.inference_mode():
        features = model.backbone.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        if place == "decode_head":
            scores = head.conv_seg(head.bn(features))
        elif place == "head":
            scores = model.head(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            scores = model.classifier(features)
        expected = F.interpolate(scores, images.shape[-2:], mode="bilinear")
        torch.testing.assert_close(built(translation, tmp_path)(images), expected, rtol=0, atol=1e-4)


HF: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 8,
}


@pytest.mark.parametrize("kind", ["Dinov2", "ViT"])
def test_linear_heads_on_transformers_encoders_equal_the_original(tmp_path, kind):
    import transformers

    config = getattr(transformers, f"{kind}Config")(**HF)
    encoder = hf_folder(tmp_path, getattr(transformers, f"{kind}Model")(config))
    weights = {f"{kind.lower()}.{key}": tensor for key, tensor in encoder.state_dict().items()}
    head = randomised(nn.Conv2d(32, 5, 1))
    weights |= {f"classifier.classifier.{key}": tensor for key, tensor in head.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors")
    translation = read(tmp_path)
    images = pixels(translation)
    with torch.inference_mode():
        scores = head(encoder(images).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (6, 6)))
        expected = F.interpolate(scores, images.shape[-2:], mode="bilinear")
        torch.testing.assert_close(built(translation, tmp_path)(images), expected, rtol=0, atol=1e-4)


def test_an_image_classifier_is_left(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    hf_folder(tmp_path, ViTForImageClassification(ViTConfig(**HF)))
    translation = read(tmp_path)
    assert not translation.has_head
    assert "classifier.bias and 1 more: image classifier" in translation.left


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_attention_heads", 3, "width 32 is not a multiple of heads 3"),
        ("num_attention_heads", None, "does not state its number of attention heads; give --heads"),
        ("hidden_size", 64, "its configuration has hidden_size 64, its tensors have width 32"),
        ("num_hidden_layers", 12, "its configuration has num_hidden_layers 12, its tensors have depth 2"),
        ("patch_size", 16, "its configuration has patch_size 16, its tensors have patch 8"),
        ("image_size", 224, "expected [1, 1 + the grid of 224x224 pixels, 32]"),
        ("image_size", "large", "config.json: field 'image_size"),
        ("num_attention_heads", "four", "config.json: field 'num_attention_heads': input should be a valid integer"),
        ("architectures", 3, "config.json: field 'architectures': input should be a valid list, not 3"),
        ("hidden_act", "relu", "field 'hidden_act' is 'relu': "),
        ("hidden_act", "silu", "an MLP without a gate has activation swiglu"),
        ("model_type", "segformer", "config.json has model_type 'segformer'"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_named(tmp_path, field, value, message):
    from transformers import ViTConfig, ViTModel

    hf_folder(tmp_path, ViTModel(ViTConfig(**HF)))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read(tmp_path)
    assert "\n" not in str(refused.value)


REFUSED = {
    "segformer.encoder.patch_embeddings.0.proj.weight": "SegFormer is not supported: it has",
    "backbone.patch_embed1.proj.weight": "SegFormer",
    "swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table": "Swin",
    "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight": "Swin",
    "image_encoder.blocks.0.attn.rel_pos_h": "SAM",
    "blocks.0.attn.relative_position_bias_table": "BEiT",
    "backbone.interactions.0.injector.gamma": "ViT-Adapter",
    "model.pixel_level_module.decoder.x": "Mask2Former",
    "blocks.0.mlp.norm.weight": "EVA",
    "stages.0.blocks.0.conv_dw.weight": "a convolutional network",
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_family_is_refused_with_a_reason(tmp_path, name):
    save_file({name: torch.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=REFUSED[name]):
        read(tmp_path / "m.safetensors")


def test_a_tensor_without_a_counterpart_is_named(tmp_path):
    _, weights = dino2("vit_small_patch14_dinov2")
    for name, message in {
        "blocks.0.mlp.extra": "raycomp has no counterpart for tensor 'blocks.0.mlp.extra' [3] (DINOv2)",
        "extra": "raycomp has no counterpart for tensor 'extra' [3]",
    }.items():
        torch.save(weights | {name: torch.ones(3)}, tmp_path / "m.pth")
        with pytest.raises(UserError, match=re.escape(message)):
            read(tmp_path / "m.pth", heads=2)
    torch.save({"some": torch.ones(1)}, tmp_path / "m.pth")
    with pytest.raises(UserError, match=re.escape("no known model family has the tensors some, ...")):
        read(tmp_path / "m.pth")
    torch.save(weights | {"blocks.1.norm1.bias": torch.full((32,), float("nan"))}, tmp_path / "m.pth")
    with pytest.raises(UserError, match=r"tensor 'blocks\.1\.norm1\.bias' is not finite: 32 of 32"):
        read(tmp_path / "m.pth", heads=2)
