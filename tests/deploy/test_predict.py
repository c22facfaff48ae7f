"""Images of any size in, classes out; and files that cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image

from raycomp.deploy import model as models
from raycomp.deploy.predict import image_files, open_model, predict, write_labels
from raycomp.errors import UserError
from raycomp.models import checkpoints
from raycomp.report.segmentation import draw, painted
from tests.conftest import TINY
from tests.deploy.test_model import CLASSES, DATA, compressed

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (48, 64, 3)), ("a.jpg", (100, 80, 3))):
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_resized_and_segmented_as_a_search_space_says(model, saliency, folder):
    made, path = compressed(model, saliency, "mean_keys"), folder / "made.safetensors"
    facts = models.facts_of(made, DATA.model_copy(update={"short_side": 48}), CLASSES)
    models.save(made, facts, path)
    run, held = open_model(path, CPU)
    found = list(predict(run, held, image_files(folder), CPU))
    assert [p.name for p, _, _ in found] == ["a.jpg", "b.png"]
    assert [image.shape for _, image, _ in found] == [(100, 80, 3), (48, 64, 3)]
    assert [predicted.shape for _, _, predicted in found] == [(100, 80), (48, 64)]
    x = torch.from_numpy(np.array(Image.open(folder / "b.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    assert np.array_equal(found[1][2], made(x)[0].argmax(0).numpy())
    draw(found[1][1], found[1][2], CLASSES, folder / "out" / "b.png")
    assert Image.open(folder / "out" / "b.png").size[0] > 1000
    write_labels(found[1][2], folder / "out" / "labels.png")
    assert np.array_equal(np.array(Image.open(folder / "out" / "labels.png")), found[1][2])
    assert painted(np.array([[255]], np.uint8)).max() == 0


def test_images_are_segmented_as_a_viewer_shows_them(model, tmp_path):
    """A photograph that is stored lying down, and one of 16 bits."""
    exif = Image.Exif()
    exif[0x112] = 6
    deep = np.random.default_rng(0).integers(0, 2**16, (48, 64), np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif)
    Image.fromarray(np.rot90(deep >> 8, -1).astype(np.uint8)).save(tmp_path / "shown.png")
    facts = models.facts_of(model, DATA.model_copy(update={"short_side": 48}), CLASSES)
    (_, image, deep_labels), (_, shown, labels) = predict(model, facts, image_files(tmp_path), CPU)
    assert image.shape == (64, 48, 3)
    assert np.array_equal(image, shown)
    assert np.array_equal(deep_labels, labels)


def test_files_that_cannot_be_used_are_named(model, folder):
    with pytest.raises(UserError, match="no such image or folder"):
        image_files(folder / "none.png")
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image in this folder; allowed: \.png"):
        image_files(folder / "empty")
    with pytest.raises(UserError, match="there is none in"):
        open_model(folder / "made.onnx", CPU)
    checkpoints.save(model, folder / "plain.safetensors")
    with pytest.raises(UserError, match=r"did you mean 'plain\.safetensors'"):
        open_model(folder / "plain.safetensor", CPU)
    with pytest.raises(UserError, match="field 'facts' is missing"):
        open_model(folder / "plain.safetensors", CPU)
    (folder / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable ONNX graph"):
        open_model(folder / "bad.onnx", CPU)
    (folder / "c.png").write_bytes(b"nothing")
    facts = models.facts_of(model, DATA, CLASSES)
    with pytest.raises(UserError, match=r"c\.png: cannot be read as an image"):
        list(predict(model, facts, [folder / "c.png"], CPU))
    assert TINY.image == facts.window
