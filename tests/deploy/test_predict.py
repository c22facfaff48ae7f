# SPDX-License-Identifier: Apache-2.0
"""Images of any size in, classes out; and files that cannot be used."""

import numpy as np
import pytest
import torch
from PIL import Image

from raycomp.deploy import model as models
from raycomp.deploy.predict import image_files, labels_of, open_model, pictures, predict, write_labels
from raycomp.errors import UserError
from raycomp.models import checkpoints
from raycomp.report.segmentation import draw, painted
from tests.conftest import TINY
from tests.helpers.deploy import CLASSES, DATA, compressed

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("b.png", (48, 64, 3)), ("a.jpg", (100, 80, 3))):
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_resized_and_segmented_as_a_search_space_says(model, saliency, figures, folder):
    made, path = compressed(model, saliency, "mean_keys"), folder / "made.safetensors"
    card = models.card_of(made, DATA.model_copy(update={"short_side": 48}), CLASSES)
    models.save(made, card, path)
    run, held = open_model(path, CPU)
    found = list(predict(run, held, image_files(folder), CPU))
    assert [p.name for p, _, _ in found] == ["a.jpg", "b.png"]
    assert [image.shape for _, image, _ in found] == [(100, 80, 3), (48, 64, 3)]
    assert [predicted.shape for _, _, predicted in found] == [(100, 80), (48, 64)]
    x = torch.from_numpy(np.array(Image.open(folder / "b.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    assert np.array_equal(found[1][2], made(x)[0].argmax(0).numpy())
    draw(found[1][1], found[1][2], CLASSES, folder / "out" / "b.png")
    shown = [axes.images[0].get_array() for axes in figures[0].axes]
    assert np.array_equal(shown[0], found[1][1])
    assert np.array_equal(shown[2], painted(found[1][2]))
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
    card = models.card_of(model, DATA.model_copy(update={"short_side": 48}), CLASSES)
    (_, image, deep_labels), (_, shown, labels) = predict(model, card, image_files(tmp_path), CPU)
    assert image.shape == (64, 48, 3)
    assert np.array_equal(image, shown)
    assert np.array_equal(deep_labels, labels)


def test_logits_may_lie_elsewhere_than_images(model, folder):
    """Images on torch's meta device, which refuses to mix with the CPU, where the logits are."""
    card = models.card_of(model, DATA.model_copy(update={"short_side": None}), CLASSES)

    def run(images):
        return torch.randn(len(images), 5, *images.shape[-2:], generator=torch.Generator().manual_seed(0))

    found, wanted = (list(predict(run, card, image_files(folder), torch.device(d))) for d in ("meta", "cpu"))
    assert [labels.shape for _, _, labels in found] == [(100, 80), (48, 64)]
    for (_, _, one), (_, _, other) in zip(found, wanted, strict=True):
        assert len(np.unique(one)) == 5
        assert np.array_equal(one, other)


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
        open_model(folder / "plane.safetensors", CPU)
    for other in ("notes.txt", "recipe.yaml", "empty", "checkpoint.pth"):
        with pytest.raises(UserError, match=r"expected a model that `raycomp export` wrote: \.saf"):
            open_model(folder / other, CPU)
    with pytest.raises(UserError, match="field 'facts' is missing"):
        open_model(folder / "plain.safetensors", CPU)
    (folder / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable ONNX graph"):
        open_model(folder / "bad.onnx", CPU)
    (folder / "bad.pt2").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"not a readable torch\.export program"):
        open_model(folder / "bad.pt2", CPU)
    checkpoints.save(model, folder / "facts.safetensors", {"facts": '{"classes": 3}'})
    with pytest.raises(UserError, match=r"facts\.safetensors: facts: field 'classes'"):
        open_model(folder / "facts.safetensors", CPU)
    (folder / "c.png").write_bytes(b"nothing")
    card = models.card_of(model, DATA, CLASSES)
    with pytest.raises(UserError, match=r"c\.png: cannot be read as an image"):
        list(predict(model, card, [folder / "c.png"], CPU))
    assert TINY.image == card.window


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a.png", "b.jpg"], ["a", "b"]),
        (["x.jpg", "x.png"], ["x.jpg", "x.png"]),
        (["X.png", "x.jpg", "y.png"], ["X.png", "x.jpg", "y"]),
        (["x.jpg", "x.png", "x.png.bmp"], ["x.jpg", "x.png", "x.png_2"]),
        (["x.png", "x_labels.png"], ["x", "x_labels_2"]),  # labels of x would be x_labels.png
    ],
)
def test_every_image_has_a_picture_of_its_own(tmp_path, names, wanted):
    found = pictures([tmp_path / name for name in names], tmp_path / "out")
    assert list(found.values()) == [tmp_path / "out" / f"{name}.png" for name in wanted]
    written = [path.name.casefold() for picture in found.values() for path in (picture, labels_of(picture))]
    assert len(set(written)) == 2 * len(names)


def test_no_picture_overwrites_an_image(tmp_path):
    images, other = tmp_path / "in", tmp_path / "other"
    for folder in (images, other):
        folder.mkdir()
    (tmp_path / "link").symlink_to(images)
    (images / "x.png").touch()
    (other / "y.png").symlink_to(images / "x.png")
    for files, out in (("in/x.png", "in"), ("in/x.png", "link"), ("link/x.png", "in"), ("other/y.png", "in")):
        with pytest.raises(UserError, match="choose another, because a picture could overwrite an image"):
            pictures([tmp_path / files], tmp_path / out)
    assert pictures([images / "x.png"], images / "out") == {images / "x.png": images / "out" / "x.png"}


def test_an_image_too_large_to_read_is_one_line_and_a_large_one_is_read(model, folder, monkeypatch, recwarn):
    card = models.card_of(model, DATA, CLASSES)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 - 1)  # of which Pillow warns, and refuses twice as many
    with pytest.raises(UserError, match=r"a\.jpg: more than 6142 pixels; cut it into smaller images"):
        list(predict(model, card, [folder / "a.jpg"], CPU))
    [(_, _, predicted)] = predict(model, card, [folder / "b.png"], CPU)
    assert predicted.shape == (48, 64)
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]


def test_a_model_says_what_it_is_for(model):
    card = models.card_of(model, DATA, CLASSES)
    assert card.scope.startswith("the model was trained on drawn street scenes (streetscenes): a photograph")
    camvid = models.card_of(model, DATA.model_copy(update={"dataset": "camvid"}), CLASSES)
    assert camvid.scope == "the model was made for the data set camvid and knows 5 classes: a, b, c, d, e"
    older = models.ModelCard.model_validate_json(camvid.model_dump_json(exclude={"dataset"}))
    assert older.scope == "the model knows 5 classes: a, b, c, d, e"


def test_the_name_of_a_class_is_no_formula(figures, tmp_path):
    draw(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), ("$a_$",), tmp_path / "a.png")
    [name] = figures[0].legends[0].get_texts()
    assert (name.get_text(), name.get_parse_math()) == ("$a_$", False)


def test_facts_of_another_model_are_refused(model, tmp_path):
    models.save(model, models.card_of(model, DATA, CLASSES[:3]), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"m\.safetensors: 'facts' has 3 classes, the model 5"):
        open_model(tmp_path / "m.safetensors", CPU)
