# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's Segmenter: logits equal the original's to 1e-4; its configuration is read and never run."""

import re
import sys
import types

import numpy as np
import pytest
import torch

from raycomp.errors import UserError
from raycomp.models.importing import built
from tests.helpers.mm_heads import TAPPED, tapped
from tests.helpers.mmseg import CONFIG, KINDS, mm_file, mm_segmenter
from tests.helpers.originals import pixels, read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["inside", "py", "json"])
def test_segmenters_equal_the_original(tmp_path, kind, place):
    original, config = mm_segmenter(kind), CONFIG.replace("HEAD", KINDS[kind])
    path = mm_file(tmp_path / "iter_8000.pth", original, config if place == "inside" else None)
    if place == "py":
        path.with_suffix(".py").write_text(config)
    if place == "json":
        backbone = '{"img_size": [32, 48], "num_heads": 4, "norm_cfg": {"eps": 1e-6}}'
        mean = '{"mean": [127.5, 127.5, 127.5], "std": [127.5, 127.5, 127.5]}'
        path.with_suffix(".json").write_text(f'{{"model": {{"backbone": {backbone}, "data_preprocessor": {mean}}}}}')
    translation = read(path)
    assert translation.shape.image == (32, 48)
    assert translation.shape.normalization == "vit"
    assert translation.shape.decoder == ("mask" if kind == "mask" else "linear")
    with torch.inference_mode():
        torch.testing.assert_close(
            built(translation, path)(pixels(translation)), original(pixels(translation)), rtol=0, atol=1e-4
        )


def test_without_a_configuration_heads_size_and_mean_must_be_given(tmp_path):
    path = mm_file(tmp_path / "m.pth", mm_segmenter("mask"), None)
    for user, message in (
        ({}, "does not state its number of attention heads; give --heads (width 64, usually 1)"),
        (
            {"heads": 4},
            "tensor 'backbone.pos_embed' has shape [1, 25, 64]; expected [1, 1 + a square, 64], or the grid",
        ),
        ({"heads": 4, "image": (32, 48)}, "does not state the pixel mean and std"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            read(path, **user)
    assert read(path, heads=4, image=(32, 48), normalization="vit").shape.heads == 4


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("num_heads=4", "num_heads=5", "width 64 is not a multiple of heads 5"),
        ("num_heads=4", "num_heads='x'", "its configuration: field 'model.backbone.num_heads': input should be"),
        ("final_norm=True", "act_cfg=dict(type='ReLU')", "backbone.act_cfg.type 'ReLU'; expected 'GELU'"),
        ("embed_dims=64", "embed_dims=96", "its configuration has backbone.embed_dims 96, its tensors have width 64"),
        ("num_layers=2", "num_layers=12", "its configuration has backbone.num_layers 12, its tensors have depth 2"),
        ("img_size=(32, 48)", "img_size=(32, 32)", "expected [1, 1 + the grid of 32x32 pixels, 64]"),
        ("mean=[127.5", "mean=[100", "pixel mean [100.0, 127.5, 127.5] and std"),
        ("final_norm=True", "out_indices=(0,)", "the head reads block 1; expected the last, 2"),
        ("FCNHead", "UPerHeadX", "decode_head.type 'UPerHeadX': "),
        ("model = dict(", "_base_ = ['a.py']\nmodel2 = dict(", "inherits from ['a.py']"),
        ("norm = dict(", "norm = = dict(", "is not a Python configuration"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_named(tmp_path, before, after, message):
    config = CONFIG.replace("HEAD", "FCNHead")
    assert before in config
    path = mm_file(tmp_path / "m.pth", mm_segmenter("linear"), config.replace(before, after))
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read(path)
    assert "\n" not in str(refused.value)


def test_a_configuration_is_not_executed(tmp_path):
    config = f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n" + CONFIG.replace("HEAD", "FCNHead")
    read(mm_file(tmp_path / "m.pth", mm_segmenter("linear"), config))
    assert not (tmp_path / "made").exists()


def history() -> object:
    """Return a logged curve as mmengine pickles it: an object of its own class with numpy arrays."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    kind = type("HistoryBuffer", (), {"__module__": module.__name__})
    setattr(module, "HistoryBuffer", kind)  # noqa: B010
    sys.modules |= {"mmengine": types.ModuleType("mmengine"), "mmengine.logging": types.ModuleType("mmengine.logging")}
    sys.modules[module.__name__] = module
    made = kind()
    made._log_history, made._count_history = np.arange(3.0), np.arange(3)
    return made


def test_a_checkpoint_with_logged_curves_is_read_without_mmengine(tmp_path):
    path = tmp_path / "m.pth"
    hub = {"log_scalars": {"train/loss": history()}, "runtime_info": {"iter": 3, "loss": np.float64(0.5)}}
    mm_file(path, mm_segmenter("linear"), CONFIG.replace("HEAD", "FCNHead"), message_hub=hub)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmengine"]:
        del sys.modules[name]
    assert read(path).shape.heads == 4


class Unknown:
    """Something that a checkpoint should not hold."""


def test_other_objects_are_refused_with_the_line_that_strips_them(tmp_path):
    path = mm_file(tmp_path / "m.pth", mm_segmenter("linear"), None, runner=Unknown())
    with pytest.raises(UserError, match=r"refused: it holds Python objects \(tests\..*Unknown\).*python -c"):
        read(path)


@pytest.mark.parametrize("kind", ["UPerHead", "SETRUPHead", "DPTHead"])
def test_heads_that_read_several_blocks_equal_the_original(tmp_path, kind):
    original = tapped(kind)
    config = TAPPED.replace("HEAD", kind).replace("INDEX", "3" if kind == "SETRUPHead" else "[0, 1, 2, 3]")
    translation = read(mm_file(tmp_path / "m.pth", original, config))
    assert translation.shape.normalization == "deit"
    with torch.inference_mode():
        expected = original(pixels(translation))
        torch.testing.assert_close(built(translation, tmp_path)(pixels(translation)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "before", "after", "message"),
    [
        ("DPTHead", "out_indices=(0, 1, 2, 3), ", "", "has backbone.out_indices -1 and decode_head.in_index"),
        ("UPerHead", "in_index=[0, 1, 2, 3]", "in_index=[1, 0, 2, 3]", "decode_head.in_index [1, 0, 2, 3]"),
        ("UPerHead", "up_scale=2", "pool_scales=(1, 2)", "decode_head.pool_scales [1, 2]"),
        ("SETRUPHead", "up_scale=2", "up_scale=4", "convolutions of 3x3 and upsamples by 4 after each; expected 4"),
        ("SETRUPHead", "eps=1e-6", "eps=1e-5", "the head's norm has epsilon 1e-06, the encoder 1e-05"),
        (
            "DPTHead",
            "readout_type='project'",
            "readout_type='add'",
            "no counterpart for tensor 'decode_head.reassemble",
        ),
    ],
)
def test_an_unsupported_head_setting_is_named(tmp_path, kind, before, after, message):
    config = TAPPED.replace("HEAD", kind).replace("INDEX", "3" if kind == "SETRUPHead" else "[0, 1, 2, 3]")
    assert before in config
    with pytest.raises(UserError, match=re.escape(message)):
        read(mm_file(tmp_path / "m.pth", tapped(kind), config.replace(before, after)))
