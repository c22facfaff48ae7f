# SPDX-License-Identifier: Apache-2.0
"""Search space files: what they leave unsaid, and what is wrong in them."""

import re

import pytest
import yaml

from raycomp.config import SweepConfig, load, parsed
from raycomp.errors import UserError
from raycomp.settings.training import TrainConfig

SPACE = {
    "name": "x",
    "model": {"checkpoint": "x.safetensors"},
    "data": {"dataset": "streetscenes"},
    "train": {"steps": 400, "optimizer": "adamw", "lr": 2e-3, "drop_path": 0.2},
}


FOLDERS = {"dataset": "folders", "root": ".", "classes": ["a", "b"]}
STAGE = {"clean": 1, "corrupted": 1}
VIT = {"vit": "tiny", "image": [64, 64], "classes": 2}


@pytest.fixture
def read(tmp_path):
    def read(**sections):
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(SPACE | sections))
        return load(tmp_path / "x.yaml")

    return read


def test_elastic_models_and_fronts_are_trained_like_the_dense_model(read):
    config = read(refine={"seeds": [0, 1], "train": {"steps": 50}})
    assert config.refine.train == config.train.model_copy(update={"steps": 50})
    assert config.refine.seeds == (0, 1)
    assert config.elastic.train == config.train.model_copy(update={"drop_path": 0.0, "decoder_dropout": 0.0})
    assert read(elastic={"train": {"drop_path": 0.3}}).elastic.train.drop_path == 0.3
    bare = {name: value for name, value in SPACE.items() if name != "train"}
    assert SweepConfig.model_validate(bare).elastic.train == TrainConfig(drop_path=0.0, decoder_dropout=0.0)
    assert config.changed("train", steps=7).elastic.train.steps == 400  # an option of one is not of the others


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"train": {"lr": -1}}, "'train.lr'"),
        ({"train": 3}, "'train'"),
        ({"elastic": 3}, "'elastic'"),
        ({"refine": {"train": {"step": 3}}}, "'refine.train.step'"),
        ({"train": {"lr": float("inf")}}, "'train.lr'"),
        ({"nvit": {"least_heads": 1}}, "unknown field 'nvit.least_heads': did you mean 'heads'?"),
        ({"train": {"crop": [64, 0]}}, "'train.crop.1'"),
        ({"train": {"augment": {"scale": [2, 0.5]}}}, "scale is [2.0, 0.5]"),
        ({"train": {"augment": {"scale": [0, 0.5]}}}, "'train.augment.scale.0'"),
        ({"data": FOLDERS | {"classes": ["a", "a"]}}, "'data.classes': expected distinct values, not ['a', 'a']"),
        ({"data": FOLDERS | {"classes": ["a", ""]}}, "'data.classes.1'"),
        (
            {"data": FOLDERS | {"classes": [f"{i}" for i in range(256)]}},
            "'data.classes': value should have at most 255",
        ),
        ({"data": FOLDERS | {"ignore": [7, 7]}}, "'data.ignore'"),
        ({"data": FOLDERS | {"ignore": [256]}}, "'data.ignore.0'"),
        ({"data": FOLDERS | {"window": [0, 64]}}, "'data.window.0'"),
        ({"model": {"checkpoint": "x", "shape": {**VIT, "classes": 256}}}, "'model.shape.classes'"),
        ({"model": {"checkpoint": "x", "shape": {"vit": "tiny", "classes": 2}}}, "'model.shape.image' is missing"),
        ({"model": {"checkpoint": "x", "shape": {**VIT, "vit": ["tiny"]}}}, "shape.vit is ['tiny']"),
        ({"evaluation": {"search": STAGE | {"severities": []}}}, "'evaluation.search.severities'"),
        ({"evaluation": {"full": STAGE | {"severities": [2, 2]}}}, "'evaluation.full.severities'"),
        ({"search": {"baselines": ["40%", 0.4]}}, "'search.baselines'"),
        ({"refine": {"seeds": [1, 1]}}, "'refine.seeds'"),
        ({"benchmark": {"methods": []}}, "'benchmark.methods'"),
        ({"benchmark": {"methods": ["tome", "tome"]}}, "'benchmark.methods'"),
        ({"benchmark": {"speedups": [2, 2.0]}}, "'benchmark.speedups'"),
        ({"benchmark": {"seeds": [0, 0]}}, "'benchmark.seeds'"),
        ({"data": {"dataset": "streetscenes", "window": [64, 48], "stride": 64}}, "data.stride is 64, the window 64x"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(read, sections, field):
    with pytest.raises(UserError) as caught:
        read(**sections)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("search", "others", "said"),
    [
        ({"cost_metric": "latency"}, {}, "is timed in onnxruntime alone; expected search.latency_engine onnxruntime"),
        ({"latency_engine": "onnxruntime"}, {}, "set search.cost_metric latency, or search.limits.ms"),
        ({"gpus_per_trial": 0.5}, {}, "measured on CPUs alone; expected search.gpus_per_trial 0, not 0.5"),
        ({}, {"evaluation": {"dtype": "bfloat16"}}, "expected evaluation.dtype float32, not bfloat16"),
        ({}, {"space": {"precision": ["int4"]}}, "'space.precision.0': input should be 'fp32' or 'int8', not 'int4'"),
        ({}, {"space": {"precision": []}}, "'space.precision'"),
        ({}, {"space": {"precision": ["int8", "int8"]}}, "expected distinct values"),
    ],
)
def test_int8_is_searched_only_where_it_can_be_measured(read, search, others, said):
    right = {"cost_metric": "latency", "latency_engine": "onnxruntime"}
    sections = {"space": {"merge": "tome", "precision": ["fp32", "int8"]}} | others
    assert read(space={"merge": "tome", "precision": ["fp32", "int8"]}, search=right)
    assert read(space={"merge": "tome", "precision": ["int8"]}, search=right | {"gpus_per_trial": 0})
    given = search if search and "gpus_per_trial" not in search else right | search
    with pytest.raises(UserError, match=re.escape(said)):
        read(**sections, search=given)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "name: x\nsearch: {trials: 3}\nmodel: {}\nsearch: {trials: 5}\n",
            "x.yaml:4:1: .*key 'search' is already in line 2",
        ),
        ("name: x\nsearch: {trials: 3, trials: 5}\n", "x.yaml:2:21: .*key 'trials' is already in line 2"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        load(tmp_path / "x.yaml")


def test_merged_keys_may_be_overridden():
    text = "a: {b: &x {c: 1, d: 2}}\ne: {f: &y {<<: *x, c: 3}}\ng: {<<: *y, d: 4}\n"
    assert parsed(text) == {"a": {"b": {"c": 1, "d": 2}}, "e": {"f": {"c": 3, "d": 2}}, "g": {"c": 3, "d": 4}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\0", "x.yaml: not valid YAML: unacceptable character #x0000"),
        ("name: 2001-99-99", "x.yaml: not valid YAML: a value cannot be read (month must be in 1..12"),
        ("name: !!timestamp x", "x.yaml: not valid YAML: a value cannot be read"),
        ("name: !!bool x", "x.yaml: not valid YAML: a value cannot be read"),
        (f"name: {'9' * 5000}", "x.yaml: not valid YAML: a value cannot be read"),
        (f"name: 0x{'f' * 5000}", "field 'name': input should be a valid string, not a number of thousands of digits"),
        ("[" * 5000, "x.yaml: not valid YAML: it is nested too deeply"),
        ("name: &a [*a]", "field 'name': input should be a valid string, not [[...]]"),
    ],
)
def test_a_value_that_yaml_cannot_read_is_one_line(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load(tmp_path / "x.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        ({"name": "large"}, "'model.shape.name'"),
        ({0: 1}, "'model.shape.0'"),
        ({"depth": 10**9}, "'model.shape.depth': input should be less than or equal to 1000"),
        ({"image": [10**9, 64]}, "'model.shape.image.0': input should be less than or equal to 65536"),
        ({"norm_eps": float("nan")}, "'model.shape.norm_eps'"),
    ],
)
def test_a_shape_that_no_model_has_is_refused(read, shape, field):
    with pytest.raises(UserError) as caught:
        read(model={"checkpoint": "x", "shape": VIT | shape})
    assert field in str(caught.value)


def test_options_set_right_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(SPACE | {"space": {"precision": ["fp32", "int8"]}}))
    with pytest.raises(UserError, match=r"x.yaml: .*expected search.latency_engine onnxruntime"):
        load(path)
    config = load(path, latency_engine="onnxruntime", budget="8ms", trials=None)
    assert (config.search.cost_metric, config.search.latency_engine) == ("latency", "onnxruntime")
    with pytest.raises(UserError, match=r"x.yaml: .*expected search.latency_engine onnxruntime"):
        load(path, latency_engine="torch", budget="8ms")
