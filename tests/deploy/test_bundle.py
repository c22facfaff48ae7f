# SPDX-License-Identifier: Apache-2.0
"""A bundle is whole, quotes its sweep's rows, and its program segments as `raycomp predict` does, without torch."""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from raycomp import footprint
from raycomp.config import load
from raycomp.deploy import model as models
from raycomp.deploy.bundle import Facts, drafted
from raycomp.deploy.onnx import export_onnx
from raycomp.deploy.precision_facts import PrecisionFigures
from raycomp.errors import UserError
from raycomp.flops import gflops
from raycomp.jobs.bundling import beside
from raycomp.merging import Algm
from raycomp.recipe import dense
from raycomp.report.confidence import confidence
from raycomp.results.store import Store
from raycomp.shape import Scale, enlarged_to
from tests.conftest import TINY, seeded_images
from tests.helpers.bundles import Sweep, full_row, labels_by_predict, labels_by_program, table
from tests.helpers.deploy import CLASSES, DATA, compressed
from tests.helpers.jobs import SHAPE, raycomp
from tests.helpers.recipes import random_recipe

RUN = Path(__file__).parents[2] / "raycomp" / "deploy" / "template"


@pytest.fixture(scope="module")
def exported(model, saliency, tmp_path_factory):
    """A model that prunes and merges, and its file."""
    made = compressed(model, saliency, "mean_keys", seed=3)
    card = models.card_of(made, DATA.model_copy(update={"short_side": None}), CLASSES)
    path = tmp_path_factory.mktemp("exported") / "made.onnx"
    export_onnx(made, card, path, seeded_images(TINY, 2))
    return made.recipe, path


@pytest.fixture
def sweep(exported, tmp_path):
    made = Sweep(tmp_path / "results" / "tiny", *exported)
    made.store(made.measured(), made.dense())
    return made


@pytest.fixture
def resizing():
    spec = spec_from_file_location("resizing", RUN / "resizing.py")
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def drawn(path, size):
    """Draw squares of random colours."""
    colours = np.random.default_rng(0).integers(0, 2, (1 + size[0] // 16, 1 + size[1] // 16, 3), np.uint8)
    Image.fromarray(255 * np.kron(colours, np.ones((16, 16, 1), np.uint8))[: size[0], : size[1]]).save(path)


def test_a_bundle_is_whole_and_its_checksums_are_right(sweep, tmp_path):
    made = sweep.bundle(tmp_path / "out", models=2)
    folder, name = tmp_path / "out" / sweep.recipe.id, sweep.recipe.id
    names = [f"{name}.onnx", f"{name}.fp16.onnx", "README.md", "SHA256SUMS", "facts.json", "resizing.py", "run.py"]
    listed = [(one.format, one.path) for one in made] + [(one["format"], one["path"]) for one in beside(made)]
    kinds = [*2 * ["onnx"], "card", "checksums", "facts", *2 * ["program"]]
    assert listed == [(kind, folder / name) for kind, name in zip(kinds, names, strict=True)]
    assert {path.name for path in folder.iterdir()} == set(names)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]  # nothing temporary is left
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    assert sums == {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names if n != "SHA256SUMS"}
    assert {line[64:66] for line in lines} == {"  "}
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["classes"] == list(CLASSES)
    assert (facts["recipe"], facts["models"], facts["window"]) == (name, names[:2], [48, 64])
    assert Facts.model_validate(facts).dataset == "streetscenes"
    for program in ("run.py", "resizing.py"):
        assert (folder / program).read_bytes() == (RUN / program).read_bytes()


def test_the_card_quotes_the_rows(sweep, tmp_path):
    sweep.bundle(tmp_path)
    card = (tmp_path / sweep.recipe.id / "README.md").read_text()
    rows = {row.recipe_id: row for row in Store(sweep.folder).rows()}
    mine, whole = rows[sweep.recipe.id], rows[dense(TINY).id]
    halves = [confidence([row])[row.recipe_id] for row in (mine, whole)]
    for name, short, cells in zip(
        ("clean_miou", "corrupted_miou"), ("clean", "corrupted"), table(card, ""), strict=False
    ):
        values = [getattr(row, name) for row in (mine, whole)]
        wanted = [f"{100 * v:.2f} ± {100 * h.half_width(short):.2f}" for v, h in zip(values, halves, strict=True)]
        assert cells == [f"{short} mIoU", *wanted, f"{100 * (values[0] - values[1]):+.2f}"]
    classes = table(card, "index")
    assert [line[:2] for line in classes] == [[str(index), name] for index, name in enumerate(CLASSES)]
    for column, lines in (
        ("class_iou", [line[1:] for line in classes[:-1]]),
        ("corrupted_by_type", table(card, "corruption")[:16]),
        ("corrupted_by_severity", table(card, "corruption")[16:]),
    ):
        for own, other, line in zip(getattr(mine, column), getattr(whole, column), lines, strict=False):
            assert line[1:] == [f"{100 * own:.1f}", f"{100 * other:.1f}", f"{100 * (own - other):+.1f}"]
    assert classes[-1] == ["4", "e", "does not occur", "does not occur", ""]
    costs = [line[1:3] for line in table(card[card.index("## Cost") :], "")]
    both = sweep.recipe, dense(TINY)
    assert costs == [
        [f"{gflops(TINY, recipe):.4f}" for recipe in both],
        [f"{footprint.params(TINY, recipe) / 1e6:.3f}" for recipe in both],
        [f"{footprint.memory(TINY, recipe).total / 1e6:.2f}" for recipe in both],
    ]
    origin = dict(table(card[card.index("## Origin") :], ""))
    assert origin["checkpoint hashes"] == "0123abcd"
    assert origin["dense checkpoint"] == "none.safetensors"
    assert origin["measured with"] == "raycomp 0.1.9, torch 2.7"
    assert "4 clean and 8 corrupted images of the data set camvid" in card
    assert "derive from the checkpoint and the data set" in card
    assert "drawn street scenes (streetscenes): a photograph" in card


def test_the_card_has_the_figures_of_every_precision(sweep, tmp_path):
    def figures(clean, change, speedup):
        return PrecisionFigures(
            clean_miou=clean,
            corrupted_miou=0.5,
            clean_change=change,
            corrupted_change=0.0,
            images=12,
            latency_ms={1: 2.0, 16: 20.0},
            speedup={1: speedup, 16: 1.0},
            setting="a CPU",
        )

    sweep.bundle(tmp_path, models=2, figures={"fp32": figures(0.7, 0.0, 1.0), "fp16": figures(0.69, -1.0, 1.3)})
    card, name = (tmp_path / sweep.recipe.id / "README.md").read_text(), sweep.recipe.id
    lines = table(card[card.index("## Cost") :], "file")
    assert [[*line[:2], *line[3:]] for line in lines] == [
        [f"`{name}.onnx`", "fp32", "70.00", "50.00", "1.00x", "1.00x"],
        [f"`{name}.fp16.onnx`", "fp16", "69.00", "50.00", "1.30x", "1.00x"],
    ]
    assert "- fp16: not recommended: loses 1.00 points of clean mIoU" in card
    assert "on 12 images, and speed relative to fp32, were measured when the model was exported: a CPU" in card
    sweep.bundle(tmp_path, models=2)
    card = (tmp_path / sweep.recipe.id / "README.md").read_text()
    assert "Cost has those of every precision" not in card
    assert "other precisions were not measured" in card


def test_the_card_says_what_was_not_measured(sweep, tmp_path):
    sweep.store(sweep.measured(status="failed", error="out of memory"))
    sweep.bundle(tmp_path / "failed")
    card = (tmp_path / "failed" / sweep.recipe.id / "README.md").read_text()
    assert "Not measured: the sweep has no measurement of this model." in card
    assert table(card, "index") == [[str(index), name] for index, name in enumerate(CLASSES)]
    assert "### Corruptions" not in card
    (sweep.folder / "trials" / f"full-{sweep.recipe.id}.parquet").unlink()
    sweep.store(sweep.measured(stage="search", per_image=None, corrupted_by_type=[float("nan"), *15 * [0.5]]))
    sweep.bundle(tmp_path / "search")
    card = (tmp_path / "search" / sweep.recipe.id / "README.md").read_text()
    assert "measured in the search stage, on fewer images than the full evaluation set" in card
    assert "there are no intervals" in card
    assert "dense model was not measured on these images" in card
    assert table(card, "corruption")[0] == ["gaussian noise", "not measured"]
    assert " ± " not in card


def test_the_card_of_a_refined_model_has_its_figures(sweep, tmp_path):
    (sweep.folder / "refined").mkdir()
    for seed in (10, 2):
        (sweep.folder / "refined" / f"{sweep.recipe.id}-seed{seed}.safetensors").touch()
    refined = [
        full_row(sweep.recipe, seed, stage="refined", seed=seed, clean_miou=clean, operating_point="9 steps, adamw")
        for seed, clean in ((10, 0.75), (2, 0.7))
    ]
    sweep.store(*refined)
    made = sweep.bundle(tmp_path, refined=True)
    assert made[0].path.parent == tmp_path / f"{sweep.recipe.id}-refined"
    card = made[0].path.with_name("README.md").read_text()
    assert table(card, "")[0][1].startswith("70.00 ± ")
    assert dict(table(card[card.index("## Origin") :], ""))["fine-tuned by `raycomp refine`"] == "9 steps, adamw"
    # mean and Student's t interval of 0.75 and 0.70 with one degree of freedom: 12.706 * 0.025
    assert "all seeds of the fine-tuning: clean mIoU 72.50 ± 31.77" in card
    assert "model of seed 2" in card
    sweep.bundle(tmp_path)  # beside it
    assert "seeds" not in (tmp_path / sweep.recipe.id / "README.md").read_text()


@pytest.mark.parametrize(
    ("size", "facts"),
    [
        ((48, 64), {}),
        ((70, 100), {}),
        ((30, 50), {}),
        ((75, 133), {"short_side": 52, "long_side": 91}),
        ((120, 140), {"short_side": 60, "mean": (0.485, 0.456, 0.406)}),
    ],
    ids=["window", "larger", "smaller", "resized", "halved"],
)
def test_the_program_segments_as_predict_does_without_torch(sweep, tmp_path, size, facts):
    """The window slides over a larger image, and a smaller one is enlarged."""
    made = sweep.bundle(tmp_path, **facts)
    drawn(tmp_path / "x.png", size)
    found = labels_by_program(made[0].path.parent, tmp_path / "x.png")
    wanted = labels_by_predict(made[0].path, tmp_path / "x.png")
    assert found.shape == size
    assert len(np.unique(found)) > 2
    assert np.array_equal(found, wanted)


def test_the_program_reads_photographs_and_other_models(sweep, tmp_path):
    made = sweep.bundle(tmp_path, models=2)
    folder, exif = made[0].path.parent, Image.Exif()
    exif[0x112] = 6  # stored lying down
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif)
    found = labels_by_program(folder, tmp_path / "x.jpg", str(made[1].path))
    assert found.shape == (64, 48)
    assert np.array_equal(found, labels_by_predict(made[0].path, tmp_path / "x.jpg"))
    Image.fromarray(pixels[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    for arguments, told in (([], "python run.py IMAGE LABELS.png"), ([tmp_path / "deep.png", "y.png"], "8 bits per")):
        done = subprocess.run(
            [sys.executable, folder / "run.py", *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode, told in done.stderr) == (1, True)


def test_the_program_resizes_as_opencv_and_torch_do(resizing, rng):
    for case in range(60):
        before, after, window = ((int(a), int(b)) for a, b in rng.integers(3, 90, (3, 2)))
        before = (2 * after[0], 2 * after[1]) if case == 0 else before  # averaged
        image = rng.integers(0, 256, (*before, 3), np.uint8)
        found = resizing.resized(image.transpose(2, 0, 1), after).transpose(1, 2, 0)
        assert np.array_equal(found, cv2.resize(image, after[::-1], interpolation=cv2.INTER_LINEAR)), (before, after)
        logits = rng.normal(size=(3, *before)).astype(np.float32)
        wanted = F.interpolate(torch.from_numpy(logits)[None], after, mode="bilinear")[0]
        np.testing.assert_allclose(resizing.resized(logits, after), wanted.numpy(), rtol=0, atol=2e-6)
        assert resizing.enlarged(before, *window) == enlarged_to(before, window)
        for long in (None, 80):
            assert resizing.scaled(before, 40, long) == Scale(40, long).of(before)
    assert resizing.scaled((5, 7), None, None) == (5, 7)


def test_only_a_bundle_of_the_same_recipe_is_replaced(sweep, tmp_path):
    made = sweep.bundle(tmp_path)
    folder, card = made[0].path.parent, made[0].path.with_name("README.md")
    card.write_text("edited")
    (folder / "__pycache__").mkdir()  # from running the program
    sweep.bundle(tmp_path)
    assert card.read_text() != "edited"
    assert not (folder / "__pycache__").exists()
    (folder / "labels.png").touch()
    with pytest.raises(UserError, match=r"also holds labels\.png, which is not of the bundle"):
        sweep.bundle(tmp_path)
    (folder / "labels.png").unlink()
    facts = json.loads((folder / "facts.json").read_text()) | {"recipe": "abc"}
    (folder / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=f"is a bundle of recipe abc, not {sweep.recipe.id}"):
        sweep.bundle(tmp_path)
    (folder / "facts.json").write_text("{}")
    with pytest.raises(UserError, match="is a bundle of recipe unknown"):
        sweep.bundle(tmp_path)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="exists and is not a bundle; choose another folder"):
        sweep.bundle(tmp_path)
    for path in folder.iterdir():
        path.unlink()
    sweep.bundle(tmp_path)
    assert len(list(folder.iterdir())) == 6


def test_a_place_that_cannot_be_written_is_one_line(sweep, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="/file is a file; expected a folder"):
            sweep.bundle(out)
    with pytest.raises(UserError, match=rf"/proc/none/{sweep.recipe.id}: not written: "):
        sweep.bundle(Path("/proc/none"))


def test_an_interrupted_export_leaves_nothing_and_the_bundle_before_it(tmp_path):
    def interrupted():
        with drafted(tmp_path / "a", "a") as draft:
            (draft / "half").touch()
            raise KeyboardInterrupt

    (tmp_path / "a").mkdir()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert list((tmp_path / "a").iterdir()) == []


def test_a_recipe_without_a_graph_has_no_bundle(sweep, tmp_path):
    adaptive = sweep.recipe.model_copy(update={"merge": Algm(threshold=0.9, blocks=(1, 2))})
    with pytest.raises(UserError, match="adaptive merging has no ONNX graph; use a recipe with fixed counts"):
        Sweep(sweep.folder, adaptive, sweep.model).bundle(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The Python of a virtual environment with what `run.py` imports, in the versions of this one, and no more."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    packages = [f"{name}=={version(name)}" for name in ("numpy", "pillow", "onnxruntime")]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20", *packages]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot install {', '.join(packages)}: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.slow
def test_a_bundle_runs_where_there_is_no_torch(place, environment):
    """From the command line to labels, on an image of the window's size and a larger one."""
    recipe = random_recipe(SHAPE, np.random.default_rng(3))
    config = load(place / "space.yaml")
    store = Store(place / "results" / "tiny")
    store.open(config)
    store.write(full_row(recipe, 1, class_iou=[0.5] * 11, per_image=None))
    store.lock.drop()
    own = {"RAYCOMP_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    done = raycomp(place, "export", recipe.id, "--bundle", "--out", "models", "--json", **own)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    folder = place / "models" / recipe.id
    assert {place / one["path"] for one in made} == set(folder.iterdir())
    assert {one["recipe"] for one in made} == {recipe.id}
    subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    missing = subprocess.run([environment, "-c", "import torch"], capture_output=True, check=False)
    assert b"No module named 'torch'" in missing.stderr
    (place / "images").mkdir()
    images = {place / "images" / f"{size[0]}.png": size for size in ((128, 128), (200, 300))}
    for path, size in images.items():
        drawn(path, size)
    predicted = raycomp(place, "predict", f"models/{recipe.id}/{recipe.id}.onnx", "images", "--labels", **own)
    assert predicted.returncode == 0, predicted.stderr
    for path, size in images.items():
        labels = labels_by_program(folder, path, python=environment)
        assert labels.shape == size
        assert len(np.unique(labels)) > 2
        with Image.open(place / "predictions" / f"{path.stem}_labels.png") as written:
            assert np.array_equal(labels, np.array(written))
