# SPDX-License-Identifier: Apache-2.0
"""Encoders of timm, transformers and DINO equal the originals to 1e-4, at tiny width with random weights."""

import pytest
import torch

from raycomp.models.importing import built
from tests.helpers.originals import hf_folder, pixels, read, timm_file

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
TIMM = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_dinov2": {"img_size": 42},
    "vit_small_patch14_reg4_dinov2": {"img_size": 42},
    "vit_giant_patch14_dinov2": {"img_size": 42},
    "vit_base_patch16_clip_224": {},
    "vit_base_patch16_clip_quickgelu_224": {},
    "vit_base_patch16_siglip_224": {},
    "vit_small_patch16_dinov3": {},
    "vit_small_patch16_dinov3_qkvb": {},
    "vit_small_plus_patch16_dinov3": {},
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_encoders_equal_the_original(tmp_path, name):
    original, path = timm_file(tmp_path, name, **SMALL | TIMM[name])
    translation = read(path, image=(32, 32))
    assert translation.heads_stated
    assert translation.normalization_stated
    with torch.inference_mode():
        features = built(translation, tmp_path).encoder(pixels(translation))[0]
        torch.testing.assert_close(features, original.forward_features(pixels(translation)), rtol=1e-4, atol=1e-4)


HF = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 48, "patch_size": 8}
MODELS = {
    "vit": ("ViT", {"intermediate_size": 64}),
    "vit_tanh": ("ViT", {"intermediate_size": 64, "hidden_act": "gelu_pytorch_tanh", "qkv_bias": False}),
    "deit": ("DeiT", {"intermediate_size": 64}),
    "dinov2": ("Dinov2", {}),
    "dinov2_swiglu": ("Dinov2", {"use_swiglu_ffn": True}),
    "dinov2_registers": ("Dinov2WithRegisters", {}),
    "dinov3": ("DINOv3ViT", {"num_register_tokens": 4, "intermediate_size": 64}),
    "dinov3_theta": ("DINOv3ViT", {"num_register_tokens": 0, "intermediate_size": 64, "rope_theta": 50.0}),
    "dinov3_gated": (
        "DINOv3ViT",
        {"num_register_tokens": 4, "intermediate_size": 64, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_encoders_equal_the_original(tmp_path, name):
    import transformers

    kind, more = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**HF | more)
    original = hf_folder(tmp_path, getattr(transformers, f"{kind}Model")(config))
    translation = read(tmp_path)
    assert translation.shape.normalization == "deit"
    with torch.inference_mode():
        features = built(translation, tmp_path).encoder(pixels(translation))[0]
        expected = original(pixels(translation)).last_hidden_state
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(translation.original()(pixels(translation)), expected)


def test_tensor_names_in_memory_and_in_files_read_the_same(tmp_path):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    original = hf_folder(tmp_path, Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**HF)))
    expected = read(tmp_path)
    torch.save(original.state_dict(), tmp_path / "memory.pth")
    again = read(tmp_path / "memory.pth")
    assert again.shape == expected.shape
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in expected.tensors.items())
