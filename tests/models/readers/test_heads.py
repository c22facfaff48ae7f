# SPDX-License-Identifier: Apache-2.0
"""Heads of transformers equal the originals to 1e-4."""

import json
from typing import Any

import pytest
import torch

from raycomp.errors import UserError
from raycomp.models.importing import built
from raycomp.models.readers import open_source
from raycomp.models.readers.hf_heads import original_of
from tests.helpers.originals import hf_folder, pixels, read

HF: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "patch_size": 8}
EOMT = HF | {"image_size": 48, "num_blocks": 2, "num_queries": 6, "num_labels": 5}
DPT = HF | {"image_size": 64, "intermediate_size": 64, "backbone_out_indices": [0, 1, 2, 3], "num_labels": 5}
DPT |= {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "eomt": ("EomtConfig", "EomtForUniversalSegmentation", EOMT),
    "eomt_upscale": ("EomtConfig", "EomtForUniversalSegmentation", EOMT | {"num_upscale_blocks": 1}),
    "eomt_swiglu": ("EomtConfig", "EomtForUniversalSegmentation", EOMT | {"use_swiglu_ffn": True}),
    "eomt_dinov3": ("EomtDinov3Config", "EomtDinov3ForUniversalSegmentation", EOMT | {"intermediate_size": 64}),
    "dpt": ("DPTConfig", "DPTForSemanticSegmentation", DPT),
    "dpt_norm": ("DPTConfig", "DPTForSemanticSegmentation", DPT | {"use_batch_norm_in_fusion_residual": True}),
    "dpt_add": ("DPTConfig", "DPTForSemanticSegmentation", DPT | {"readout_type": "add"}),
    "dpt_ignore": ("DPTConfig", "DPTForSemanticSegmentation", DPT | {"readout_type": "ignore", "hidden_act": "gelu"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_models_equal_the_original(tmp_path, name):
    import transformers

    config, kind, fields = MODELS[name]
    model: Any = getattr(transformers, kind)(getattr(transformers, config)(**fields))
    if "eomt" in name:
        model.attn_mask_probs.zero_()
    hf_folder(tmp_path, model)
    translation = read(tmp_path)
    assert translation.has_head
    with torch.inference_mode():
        expected = original_of(open_source(tmp_path), kind)(pixels(translation))
        logits = built(translation, tmp_path)(pixels(translation))
    if expected.shape != logits.shape:
        expected = torch.nn.functional.interpolate(expected, logits.shape[-2:], mode="bilinear")
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_an_eomt_with_masked_attention_is_refused(tmp_path):
    from transformers import EomtConfig, EomtForUniversalSegmentation

    hf_folder(tmp_path, EomtForUniversalSegmentation(EomtConfig(**EOMT)))
    with pytest.raises(UserError, match="tensor 'attn_mask_probs' is not zero: masked attention is still on"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reassemble_factors", [4, 2, 1, 1], r"config\.json has reassemble_factors \[4\.0, 2\.0, 1\.0, 1\.0\]"),
        ("backbone_out_indices", None, "config.json lacks backbone_out_indices"),
        ("backbone_out_indices", [0, 1, 2, 9], r"taps \(1, 2, 3, 10\): expected ascending blocks from 1 to depth, 4"),
        (
            "readout_type",
            "sum",
            r"config\.json: field 'readout_type': input should be 'ignore', 'add' or 'project', not 'sum'",
        ),
    ],
)
def test_an_unsupported_dpt_setting_is_named(tmp_path, field, value, message):
    from transformers import DPTConfig, DPTForSemanticSegmentation

    hf_folder(tmp_path, DPTForSemanticSegmentation(DPTConfig(**DPT | {"readout_type": "ignore"})))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("prefix", ["", "network."])
def test_official_eomt_files_equal_those_of_transformers(tmp_path, prefix):
    """The encoder has timm's names and no LayerScale; the model normalises pixels itself."""
    from transformers import EomtConfig, EomtForUniversalSegmentation

    model = EomtForUniversalSegmentation(EomtConfig(**EOMT))
    model.attn_mask_probs.zero_()
    hf_folder(tmp_path, model)
    reference = read(tmp_path)
    weights = {"attn_mask_probs": torch.zeros(2), "q.weight": reference.tensors["encoder.queries"][0]}
    weights |= {"encoder.pixel_mean": torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)}
    weights |= {"encoder.pixel_std": torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)}
    names = {"mask_head.fc1": "mask_head.0", "mask_head.fc2": "mask_head.2", "mask_head.fc3": "mask_head.4"}
    for name, tensor in reference.tensors.items():
        part, _, rest = name.partition(".")
        if part == "encoder" and rest != "queries":
            weights[f"encoder.backbone.{rest}"] = tensor[:, 5:] if rest == "pos_embed" else tensor
        elif part == "decoder" and not rest.endswith("depthwise.bias"):
            rest = rest.replace(".depthwise.", ".conv2.").replace(".conv.", ".conv1.")
            weights[next((new + rest.removeprefix(old) for old, new in names.items() if old in rest), rest)] = tensor
    torch.save({"state_dict": {prefix + name: t for name, t in weights.items()}}, tmp_path / "eomt.ckpt")
    (tmp_path / "config.json").unlink()
    translation = read(tmp_path / "eomt.ckpt", heads=2)
    assert translation.shape == reference.shape
    assert all(torch.equal(translation.tensors[name], tensor) for name, tensor in reference.tensors.items())
