# SPDX-License-Identifier: Apache-2.0
"""From a dense checkpoint to a search over an elastic model, as a user runs it; and what is refused."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image

from raycomp.data.streetscenes import StreetScenes
from raycomp.models import checkpoints
from raycomp.results.query import completed
from raycomp.results.store import Store
from tests.conftest import seeded_model
from tests.helpers.jobs import ROOT, SHAPE, execute

TRAIN = {"steps": 3, "batch": 2, "optimizer": "adamw", "images": 8, "eval_images": 4, "augment": {"flip": True}}
SPACE = {
    "name": "tiny",
    "model": {
        "checkpoint": "model.safetensors",
        "elastic": "elastic.safetensors",
        "shape": SHAPE.model_dump(mode="json"),
    },
    "data": {"dataset": "streetscenes"},
    "evaluation": {"search": {"clean": 4, "corrupted": 1}, "full": {"clean": 6, "corrupted": 1}},
    "space": {"heads": {"low": 4, "step": 1, "drop": True}, "mlp": {"low": 64, "step": 16, "drop": True}},
    "recovery": {"mode": "elastic"},
    "search": {"trials": 6, "budget": "80%", "baselines": ["70%", "40%"]},
    "elastic": {"train": TRAIN},
    "refine": {"train": TRAIN, "workers": 2},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elastic")
    checkpoints.save(seeded_model(SHAPE), folder / "model.safetensors")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return folder


def run(place, job: str, *options: str) -> subprocess.CompletedProcess[str]:
    space = () if job == "refine.py" else ("--space", "space.yaml")
    return execute(place, sys.executable, str(ROOT / "jobs" / job), *space, *options)


def raycomp(place, *options: str) -> subprocess.CompletedProcess[str]:
    return execute(place, sys.executable, "-c", "from raycomp.cli import run; run()", *options)


@pytest.mark.slow
def test_an_elastic_model_is_trained_searched_and_deployed(place):
    missing = run(place, "pareto_search.py", "--results", "none")
    assert (missing.returncode, "model.elastic: no file elastic.safetensors" in missing.stderr) == (2, True)
    trained = run(place, "train.py", "--elastic", "--out", "elastic.safetensors")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "| full width | 100% |" in (place / "elastic.md").read_text()
    assert not (place / "elastic.state").exists()
    assert checkpoints.elastic_space(place / "elastic.safetensors").mlp.low == 64
    options = ("--start", "elastic.safetensors", "--steps", "1", "--lr", "1e-12", "--out", "again.safetensors")
    again = run(place, "train.py", "--elastic", *options)
    assert again.returncode == 0, again.stdout + again.stderr
    before, after = (checkpoints.load(place / f"{name}.safetensors").state_dict() for name in ("elastic", "again"))
    for name, weight in before.items():  # units are not sorted again
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-6)
    searched = run(place, "pareto_search.py")
    assert searched.returncode == 0, searched.stdout + searched.stderr
    rows = completed(Store(place / "results" / "tiny").rows(), "search")
    assert len(rows) == 7
    files = [checkpoints.fingerprint(place / name) for name in ("model.safetensors", "elastic.safetensors")]
    assert {row.checkpoint for row in rows} == {" ".join(files)}
    assert {row.recovery for row in rows} == {"elastic"}
    # Uniform pruning at 40% is outside of what was trained.
    assert all(width == 0 or width >= 64 for row in rows for width in row.mlp)
    assert {heads for row in rows for heads in row.heads} <= {0, 4}
    refined = run(place, "refine.py", "--sweep", "tiny", "--steps", "4", "--top", "1", "--seeds", "0,1")
    assert refined.returncode == 0, refined.stdout + refined.stderr
    assert "refining 2 model(s) by 4 steps on 2 worker(s)" in refined.stdout
    assert "model 2/2 measured" in refined.stdout
    tuned = completed(Store(place / "results" / "tiny").rows(), "refined")
    assert {(row.seed, row.recovery, row.recovery_steps) for row in tuned} == {
        (0, "elastic, refined", 4),
        (1, "elastic, refined", 4),
    }
    assert len(list((place / "results" / "tiny" / "refined").glob("*.safetensors"))) == 2
    assert not list((place / "results" / "tiny" / "states").iterdir())
    assert (place / "results" / "tiny" / "refined.png").is_file()
    again = run(place, "refine.py", "--sweep", "tiny", "--steps", "4", "--top", "1", "--seeds", "0,1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "model 1/2 loss" not in again.stdout, "trained twice"
    shown = raycomp(place, "front", "tiny")
    assert "Refined front" in shown.stdout, shown.stderr
    assert tuned[0].recipe_id in shown.stdout.partition("Refined front")[2]
    as_json = json.loads(raycomp(place, "front", "tiny", "--json").stdout)
    assert [row["seed"] for row in as_json["refined"]] == [0, 1]
    diverged = run(place, "refine.py", "--sweep", "tiny", "--steps", "4", "--top", "1", "--lr", "1e30")
    assert (diverged.returncode, len(diverged.stderr.strip().splitlines())) == (2, 1), diverged.stderr
    assert "a train.lr below 1e+30 may help" in diverged.stderr
    elsewhere = run(place, "refine.py", "--sweep", "tiny", "--split", "test")
    assert elsewhere.returncode == 0, elsewhere.stdout + elsewhere.stderr
    assert "rank correlation of clean_miou between tiny and this run: Spearman" in elsewhere.stdout
    held_out = Store(place / "results" / "tiny-on-test").rows()
    assert {row.stage for row in held_out} == {"full"}
    assert tuned[0].recipe_id in {row.recipe_id for row in held_out}
    assert {row.evalset for row in held_out}.isdisjoint({row.evalset for row in rows})
    assert raycomp(place, "pick", "tiny-on-test", "--max-share", "70%").returncode == 0
    refused = run(place, "refine.py", "--sweep", "tiny", "--split", "test", "--steps", "3")
    assert (refused.returncode, "--steps 3: not with --space and --split" in refused.stderr) == (2, True)
    found = next(row.recipe_id for row in rows if row.family == "prune+tome")
    chosen = "--formats", "safetensors,onnx,pt2", "--precision", "fp32,int8"
    exported = raycomp(place, "export", found[:8], "--out", "out", *chosen, "--json")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert exported.stderr.count("torch's on 8 images") == 3
    made = json.loads(exported.stdout)
    suffixes = "safetensors", "onnx", "int8.onnx", "pt2"
    assert [one["path"] for one in made] == [f"out/{found}.{suffix}" for suffix in suffixes]
    assert [one["logit_difference"] is None for one in made] == [True, False, True, False]
    assert max(made[1]["logit_difference"], made[3]["logit_difference"]) < 1e-4
    assert made[2]["recommendation"].startswith("int8: ")
    image, _ = StreetScenes("val", 1)[0]
    Image.fromarray(image).save(place / "street.png")
    for suffix in suffixes:
        to = ("--out", f"drawn/{suffix}", "--labels", "--json")
        drawn = raycomp(place, "predict", f"out/{found}.{suffix}", "street.png", *to)
        assert drawn.returncode == 0, drawn.stdout + drawn.stderr
        assert sum(json.loads(drawn.stdout)[0]["shares"].values()) == pytest.approx(1.0)
    labels = [(place / "drawn" / s / "street_labels.png").read_bytes() for s in ("safetensors", "onnx", "pt2")]
    assert labels[0] == labels[1] == labels[2]
    deployed = f"out/{found}.safetensors", f"out/{found}.int8.onnx"
    timed = raycomp(place, "speed", *deployed, "--batch", "1,2", "--rounds", "2", "--json")
    assert timed.returncode == 0, timed.stdout + timed.stderr
    assert [one["precision"] for one in json.loads(timed.stdout)] == ["fp32"] * 4 + ["fp32", "fp32", "int8"] * 2
    tuned_id = tuned[0].recipe_id
    for recipe, code in ((tuned_id, 0), (next(r.recipe_id for r in rows if r.recipe_id != tuned_id), 2)):
        again = raycomp(place, "export", recipe, "--refined", "--out", "refined", "--formats", "safetensors")
        assert again.returncode == code, again.stdout + again.stderr
    assert len(list((place / "refined").glob("*.safetensors"))) == 1
    refused = raycomp(place, "export", found, "--formats", "tflite")
    assert (refused.returncode, "--formats tflite: allowed: safetensors, onnx, pt2" in refused.stderr) == (2, True)
    wider = SPACE | {"space": {"mlp": {"low": 32, "step": 16}}}
    (place / "space.yaml").write_text(yaml.safe_dump(wider))
    refused = run(place, "pareto_search.py", "--name", "wider")
    assert refused.returncode == 2
    assert "blocks.0.mlp is 32, the minimum is 64" in refused.stderr
    dense = run(place, "train.py", "--elastic", "--policy", "--out", "x.safetensors")
    assert (dense.returncode, "choose one" in dense.stderr) == (2, True)
