# SPDX-License-Identifier: Apache-2.0
"""Every precision of a model in files: what they say of themselves, and that all commands take them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from raycomp.commands.export import _models
from raycomp.commands.inputs import print_json
from raycomp.deploy import model as models
from raycomp.deploy.precision_facts import PRECISION_FIELD, PRECISIONS, Precision, parse_facts
from raycomp.deploy.predict import open_model, predict
from raycomp.deploy.speed import open_onnx, speeds
from raycomp.errors import UserError
from raycomp.evaluate.measure import measure
from raycomp.flops import gflops
from raycomp.jobs.exporting import Outputs
from raycomp.jobs.exporting_onnx import write_onnx
from raycomp.merging import Algm, ToMe
from raycomp.recipe import dense
from raycomp.recover import recovered
from tests.helpers.contexts import SHAPE, unlabelled
from tests.helpers.onnx_graphs import identity

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe():
    return dense(SHAPE).model_copy(update={"embed": 48, "merge": ToMe(ratios=(0.2, 0.0, 0.1, 0.0))})


@pytest.fixture(scope="module")
def calibration():
    rng = np.random.default_rng(1)
    return rng.integers(0, 255, (6, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def written(context, recipe, calibration, said, tmp_path_factory):
    """The files of one model by precision."""
    network = context.cut(recipe, CPU)
    card = models.card_of(network, context.config.data, context.evalset.classes)
    windows = context.normalised(np.stack(context.evalset.images.views()[:3]))
    paths = Outputs.of(tmp_path_factory.mktemp("out"), recipe.id, ["onnx"], PRECISIONS).precisions
    made = write_onnx(network, card, windows, context, calibration, paths, True, said.append)
    return {one.precision: one for one in made}


def test_files_are_named_by_recipe_and_precision():
    outputs = Outputs.of(Path("out"), "a1", ["safetensors", "onnx", "pt2"], ["int8", "fp32"])
    names = ["a1.safetensors", "a1.pt2", "a1.yaml", "a1.int8.onnx", "a1.onnx"]
    assert [path.name for path in outputs.files] == names
    assert Outputs.of(Path("out"), "a1", ["pt2"], ["fp32"]).files == [Path("out/a1.pt2")]


@pytest.mark.slow
def test_accuracies_in_onnxruntime_are_those_in_torch(context, recipe, written):
    config = context.config
    found = measure(context.cut(recipe, CPU), context.evalset, "full", config.evaluation, config.data, CPU)
    figures = written["fp32"].figures
    assert figures.clean_miou == pytest.approx(found.clean_miou, abs=1e-4)
    assert figures.corrupted_miou == pytest.approx(np.nanmean(found.corrupted), abs=1e-4)
    assert figures.images == found.images == 84


@pytest.mark.slow
def test_a_trial_in_int8_has_the_accuracy_of_the_file(context, recipe, calibration, written):
    quantised = recovered(replace(context, calibration=calibration), recipe.at("int8"), None, CPU, Path("nowhere"))
    config, figures = context.config, written["int8"].figures
    found = measure(quantised, context.evalset, "full", config.evaluation, config.data, CPU)
    assert abs(figures.corrupted_change) > 0.05  # points
    assert found.clean_miou == pytest.approx(figures.clean_miou, abs=2e-4)
    assert np.nanmean(found.corrupted) == pytest.approx(figures.corrupted_miou, abs=2e-4)


@pytest.mark.slow
def test_precisions_are_compared_with_float32(written, said):
    reference = written["fp32"].figures
    assert (reference.clean_change, reference.corrupted_change) == (0, 0)
    assert reference.speedup == {1: 1, 16: 1}
    for name in PRECISIONS:
        one = written[name].figures
        assert one.clean_change == pytest.approx(100 * (one.clean_miou - reference.clean_miou))
        assert one.corrupted_change == pytest.approx(100 * (one.corrupted_miou - reference.corrupted_miou))
        assert one.speedup[16] == pytest.approx(reference.latency_ms[16] / one.latency_ms[16])
    assert written["fp32"].logit_difference < 1e-4
    assert written["int8"].logit_difference is None
    assert min(written[name].label_agreement for name in PRECISIONS) > 0.9
    assert written["int8"].size < written["fp16"].size < written["fp32"].size
    assert [line.rpartition("torch's ")[2] for line in said] == ["on 3 images"] * 3


@pytest.mark.slow
def test_a_file_knows_its_precision_and_figures(written):
    for name, one in written.items():
        held = {field.key: field.value for field in onnx.load(one.path).metadata_props}
        facts = parse_facts(held, one.path)
        assert (facts.precision, facts.figures) == (name, one.figures)
        assert held.keys() == {"facts", "shape", "recipe", PRECISION_FIELD}
    assert parse_facts({}, Path("old.onnx")).precision == "fp32"
    with pytest.raises(UserError, match=r"^x\.onnx: precision: field 'precision'"):
        parse_facts({PRECISION_FIELD: json.dumps({"precision": "int4"})}, Path("x.onnx"))


@pytest.mark.slow
def test_json_has_all_that_the_table_has(written, capsys):
    print_json([one.described() for one in written.values()])
    found = json.loads(capsys.readouterr().out)
    assert [one["precision"] for one in found] == list(PRECISIONS)
    assert [one["bytes"] for one in found] == [one.path.stat().st_size for one in written.values()]
    assert found[2]["figures"]["speedup"] == {str(k): v for k, v in written["int8"].figures.speedup.items()}
    assert found[0]["recommendation"] is None
    assert found[2]["recommendation"].startswith(("int8: recommended", "int8: not recommended"))


@pytest.mark.slow
def test_predicting_gives_the_labels_of_onnxruntime(context, written, tmp_path):
    image = context.evalset.images.views()[0]
    Image.fromarray(image).save(tmp_path / "x.png")
    labels = {}
    for name, one in written.items():
        run, card = open_model(one.path, CPU)
        [(_, _, found)] = predict(run, card, [tmp_path / "x.png"], CPU)
        x = ((image / 255 - card.mean) / card.std).transpose(2, 0, 1)[None].astype(np.float32)
        session = onnxruntime.InferenceSession(one.path)
        assert (found == session.run(None, {"images": x})[0][0].argmax(0)).mean() > 0.999
        labels[name] = found
    assert (labels["int8"] == labels["fp32"]).mean() > 0.9


@pytest.mark.slow
def test_files_of_every_precision_are_timed(recipe, written, tmp_path):
    loaded = {one.path.name: open_onnx(one.path, CPU) for one in written.values()}
    found = speeds(loaded, ["torch", "onnxruntime"], [1], CPU, torch.float32, 1)
    assert [(s.model, s.runtime, s.precision) for s in found] == [
        ("dense", "onnxruntime", "fp32"),
        *((written[name].path.name, "onnxruntime", name) for name in PRECISIONS),
    ]
    assert {s.gflops for s in found[1:]} == {gflops(SHAPE, recipe)}
    name = written["int8"].path.name
    with pytest.raises(UserError, match=rf"^--runtime torch: {name} runs in onnxruntime alone$"):
        speeds({name: loaded[name]}, ["torch"], [1], CPU, torch.float32, 1)
    other = replace(loaded[name], shape=SHAPE.model_copy(update={"depth": 2}))
    with pytest.raises(UserError, match="different shapes"):
        speeds({"a": loaded[name], "b": other}, ["onnxruntime"], [1], CPU, torch.float32, 1)


@pytest.mark.slow
def test_a_file_that_cannot_be_timed_is_one_line(written, tmp_path):
    identity(tmp_path / "same.onnx")
    with pytest.raises(UserError, match=r"same\.onnx: field 'facts' is missing: not written by `raycomp export`"):
        _models(str(tmp_path / "same.onnx"), "results", CPU)
    with pytest.raises(UserError, match=r"no model .*sane\.onnx; did you mean 'same\.onnx'"):
        _models(str(tmp_path / "sane.onnx"), "results", CPU)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad\.onnx: not a readable ONNX graph"):
        _models(str(tmp_path / "bad.onnx"), "results", CPU)


def test_nothing_is_written_if_a_precision_fails(context, calibration, tmp_path):
    adaptive = dense(SHAPE).model_copy(update={"merge": Algm(blocks=(1, 3), threshold=0.9)})
    network = context.cut(adaptive, CPU)
    card = models.card_of(network, context.config.data, context.evalset.classes)
    windows = context.normalised(np.stack(context.evalset.images.views()[:1]))
    paths: dict[Precision, Path] = {"fp32": tmp_path / "a.onnx", "int8": tmp_path / "a.int8.onnx"}
    with pytest.raises(UserError, match="adaptive merging has no fixed graph"):
        write_onnx(network, card, windows, context, calibration, paths, True, print)
    assert not list(tmp_path.iterdir())


def test_accuracy_needs_labelled_pixels(context, tmp_path):
    from raycomp.evaluate.measure import accuracy

    def run(images):
        return torch.zeros(len(images), SHAPE.classes, *images.shape[-2:])

    config = context.config
    with pytest.raises(UserError, match=r"^evaluation\.full: no pixel is labelled in its clean images"):
        accuracy(run, SHAPE, unlabelled(context, 0, 1, 2, 3), config.evaluation, config.data, CPU)
