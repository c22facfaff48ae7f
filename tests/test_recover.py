# SPDX-License-Identifier: Apache-2.0
"""What a trial does with a cut model before it measures it."""

import pickle
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.compress.elastic import ordered
from raycomp.compress.quantised import quantised
from raycomp.context.sweep_context import Elastic
from raycomp.data.streetscenes import StreetScenes
from raycomp.errors import UserError
from raycomp.merging import Cts, ToMe
from raycomp.recipe import PRECISIONS, dense
from raycomp.recover import recovered
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.settings.space_and_search import SpaceConfig, WidthRange
from raycomp.settings.training import RecoveryConfig
from raycomp.space import Space
from raycomp.storage import located
from tests.conftest import seeded_images
from tests.helpers.contexts import SHAPE
from tests.helpers.copies import Copies
from tests.helpers.services import s3

CPU = torch.device("cpu")
NARROW = dense(SHAPE).model_copy(update={"embed": 48, "merge": ToMe(ratios=(0.2, 0.0, 0.1, 0.0))})
SAMPLES = StreetScenes("train", 8)


def recovering(context, **recovery):
    return replace(context, config=context.config.changed("recovery", **recovery))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture
def elastic(context):
    model = ordered(context.model, context.saliency)
    with torch.no_grad():  # as a training would, away from the dense model
        for parameter in model.parameters():
            parameter.mul_(1.01)
    space = Space(SHAPE, SpaceConfig(embed=WidthRange(low=40)), SHAPE.image)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return replace(context, elastic=Elastic(arrays, space, "second")), model


def test_an_elastic_recipe_is_a_slice_and_the_dense_recipe_the_dense_model(elastic):
    context, model = elastic
    images = seeded_images(SHAPE)
    made = recovered(context, NARROW, None, CPU, Path("nowhere"))
    assert torch.equal(made(images), compress(model, NARROW, None)(images))
    assert torch.equal(recovered(context, dense(SHAPE), None, CPU, Path("nowhere"))(images), context.model(images))
    with pytest.raises(UserError, match="embed is 32, the minimum is 40"):
        recovered(context, NARROW.model_copy(update={"embed": 32}), None, CPU, Path("nowhere"))
    assert context.fingerprint == "weights second"


def test_a_device_gets_the_weights_once_and_recipes_are_cut_there(elastic):
    """`meta` stands for a GPU, as none is at hand."""
    context, there = elastic[0], torch.device("meta")
    shared = NARROW.model_copy(update={"merge": Cts(share=0.5, policy="small")})
    for which, recipe, copies in ((context, NARROW, 0), (replace(context, elastic=None), shared, 1)):
        for _ in range(2):
            with Copies() as counted:
                model, whole = which.cut(recipe, there), which.cut(dense(SHAPE), there)
        assert counted.between_devices == copies  # the units to keep, where they are not the first ones
        assert all(parameter.is_meta for parameter in (*model.parameters(), *whole.parameters()))
        assert not any(parameter.is_meta for parameter in which.cut(recipe).parameters())


def test_networks_do_not_travel_with_a_base(elastic):
    """Ray pickles it for every actor; an array goes through the object store, a tensor would not."""
    context, model = elastic
    context.cut(NARROW, torch.device("meta"))
    assert "elastic_model" in vars(context)
    other = pickle.loads(pickle.dumps(context))
    assert set(vars(other)) == {field.name for field in fields(context)}
    images = seeded_images(SHAPE)
    assert torch.equal(other.cut(NARROW)(images), compress(model, NARROW, None)(images))


def test_a_finetuned_model_is_kept_in_object_storage(context, monkeypatch):
    with s3() as storage:
        for name, value in storage.items():
            monkeypatch.setenv(name, value)
        folder = located("s3://sweeps/results/tuned")
        tuned = recovering(context, mode="finetune", steps=3, lr=1e-2)
        first = recovered(tuned, NARROW, SAMPLES, CPU, folder)
        assert [path.stem for path in (folder / "models").glob("*")] == [NARROW.id]
        assert not list((folder / "states").glob("*"))
        monkeypatch.setattr("raycomp.recover.train", lambda *_: pytest.fail("trained twice"))
        again = recovered(tuned, NARROW, SAMPLES, CPU, folder)
    images = seeded_images(SHAPE)
    assert torch.equal(first.eval()(images), again(images))


def test_finetuning_is_done_once_and_leaves_the_dense_model_alone(context, tmp_path, monkeypatch):
    tuned = recovering(context, mode="finetune", steps=3, lr=1e-2)
    before = weights(context.model)
    first = recovered(tuned, NARROW, SAMPLES, CPU, tmp_path)
    assert not list((tmp_path / "states").iterdir())
    monkeypatch.setattr("raycomp.recover.train", lambda *_: pytest.fail("trained twice"))
    again = recovered(tuned, NARROW, SAMPLES, CPU, tmp_path)
    images = seeded_images(SHAPE)
    assert torch.equal(first.eval()(images), again(images))
    assert again.encoder.merger is not None
    assert any(not torch.equal(first.state_dict()[n], w) for n, w in weights(context.cut(NARROW)).items())
    assert all(torch.equal(context.model.state_dict()[name], weight) for name, weight in before.items())
    with pytest.raises(pytest.fail.Exception, match="trained twice"):  # other settings, another model
        recovered(recovering(context, mode="finetune", steps=4), NARROW, SAMPLES, CPU, tmp_path)


def test_distillation_moves_the_model_elsewhere(context, tmp_path):
    made = [
        weights(
            recovered(recovering(context, mode="finetune", steps=2, distill=d), NARROW, SAMPLES, CPU, tmp_path / str(d))
        )
        for d in (0.0, 1.0)
    ]
    assert any(not torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_reconstruction_comes_nearer_to_the_dense_model(context):
    images = np.stack(context.evalset.images.views()[:4])
    refitted = replace(recovering(context, mode="reconstruct"), calibration=images)
    x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    errors = [
        (recovered(b, NARROW, None, CPU, Path("nowhere")).patch_scores(x) - context.model.patch_scores(x))
        .square()
        .mean()
        for b in (context, refitted)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("mode", ["none", "finetune", "reconstruct"])
def test_a_trial_says_how_it_recovered(context, mode, tmp_path):
    context = recovering(context, mode=mode, **({"steps": 2} if mode == "finetune" else {}))
    context = replace(context, calibration=np.stack(context.evalset.images.views()[:4]))
    row = run_trial(context, SAMPLES, Proposal(1, "search", "proposed", "", NARROW), tmp_path, CPU, "")
    assert row.status == "complete", row.error
    assert (row.recovery, row.recovery_steps) == (mode, 2 if mode == "finetune" else 0)


@pytest.mark.parametrize("mode", ["none", "elastic", "finetune", "reconstruct"])
def test_an_int8_recipe_is_recovered_in_float32_and_quantised_last(elastic, mode, tmp_path):
    images = np.stack(elastic[0].evalset.images.views()[:4])
    context = replace(elastic[0], calibration=images, elastic=elastic[0].elastic if mode == "elastic" else None)
    context = recovering(context, mode=mode, **({"steps": 2} if mode == "finetune" else {}))
    plain = recovered(context, NARROW, SAMPLES, CPU, tmp_path).eval()
    made = recovered(context, NARROW.at("int8"), SAMPLES, CPU, tmp_path)
    assert made.recipe == NARROW.at("int8")
    assert all(torch.equal(weight, made.state_dict()[name]) for name, weight in weights(plain).items())
    x = context.normalised(images)
    assert torch.equal(made(x), quantised(plain, x)(x))
    assert not torch.equal(made(x), plain(x))
    fewer = recovered(context, NARROW.at("int8"), SAMPLES, CPU, tmp_path, 1)
    assert torch.equal(fewer(x), quantised(plain, x[:1])(x))
    whole = recovered(context, dense(SHAPE).at("int8"), SAMPLES, CPU, tmp_path)
    assert torch.equal(whole(x), quantised(context.model, x)(x))


@pytest.mark.parametrize("stage", ["probe", "search", "full"])
def test_a_trial_measures_an_int8_recipe(context, stage, tmp_path):
    context = replace(context, calibration=np.stack(context.evalset.images.views()[:4]))
    early = context.config.evaluation.search.model_dump()
    context = replace(context, config=context.config.changed("evaluation", early_stopping=early))
    proposals = [Proposal(1, stage, "proposed", "", NARROW.at(precision)) for precision in PRECISIONS]
    plain, row = (run_trial(context, SAMPLES, one, tmp_path, CPU, "") for one in proposals)
    assert (row.status, row.precision, row.family) == ("complete", "int8", "prune+tome+int8")
    assert (row.recipe_id, row.recipe) == (NARROW.at("int8").id, NARROW.at("int8"))
    assert (row.gflops, row.params) == (plain.gflops, plain.params)
    assert (row.latency_ms, row.throughput) == (None, None)  # torch computes it in float32
    assert plain.precision == "fp32"
    assert plain.throughput is not None


@pytest.mark.parametrize("values", [{"mode": "finetune"}, {"mode": "none", "steps": 3}])
def test_steps_belong_to_finetuning(values):
    with pytest.raises(ValueError, match="only finetune needs steps"):
        RecoveryConfig(**values)
