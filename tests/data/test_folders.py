# SPDX-License-Identifier: Apache-2.0
"""The three real data sets, and folders with something wrong in them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycomp.data.datasets import Ade20k, CamVid, Cityscapes, Custom, open_split
from raycomp.data.folders import FolderSamples
from raycomp.data.samples import IGNORE
from raycomp.errors import UserError
from raycomp.settings.model_and_data import DataConfig
from tests.conftest import shared


def test_camvid():
    data = CamVid(shared("data/camvid11"), "train")
    image, label = data[0]
    assert (len(data), image.shape, label.shape) == (367, (360, 480, 3), (360, 480))
    assert len(CamVid(shared("data/camvid11"), "val")) == 101
    values = np.unique(np.concatenate([data[i][1].ravel() for i in range(0, 367, 40)]))
    assert set(values) <= {*range(11), IGNORE}
    assert IGNORE in values


def test_ade20k():
    data = Ade20k(shared("data/ade20k_sample"), "val")
    image, label = data[0]
    stored = np.array(Image.open(shared("data/ade20k_sample/annotations/validation/ADE_val_00000001.png")))
    assert len(data.classes) == 150
    assert data.classes[0] == "wall"
    assert image.shape[:2] == label.shape
    np.testing.assert_array_equal(label, np.where(stored == 0, IGNORE, stored.astype(int) - 1))


def test_cityscapes_label_ids_become_train_ids():
    data = Cityscapes(shared("data/cityscapes_sample"), "val")
    image, label = data[0]
    stored = np.array(Image.open(next(shared("data/cityscapes_sample/gtFine/val/aachen").glob("*000000*labelIds.png"))))
    assert (len(data), image.shape[:2]) == (3, label.shape)
    assert (label[stored == 7] == 0).all()  # road
    assert (label[stored == 26] == 13).all()  # car
    assert (label[stored == 4] == IGNORE).all()  # static
    assert set(np.unique(label)) <= {*range(19), IGNORE}


def cityscapes_folder(root: Path, labels: dict[str, dict[str, int]]) -> Path:
    """`labels`: of each image the value of each kind of label file that it has."""
    for folder in ("leftImg8bit/val/x", "gtFine/val/x"):
        (root / folder).mkdir(parents=True)
    for name, kinds in labels.items():
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / f"leftImg8bit/val/x/{name}_leftImg8bit.png")
        for kind, value in kinds.items():
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(root / f"gtFine/val/x/{name}_gtFine_{kind}.png")
    return root


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"a": {"labelIds": 26, "labelTrainIds": 13}}, [13]),
        ({"a": {"labelIds": 26, "labelTrainIds": 13}, "b": {"labelIds": 7}}, [13, 0]),  # train ids of some alone
        ({"a": {"labelTrainIds": 18}, "b": {"labelTrainIds": 255}}, [18, IGNORE]),
        ({"a": {"labelIds": 255}, "b": {"labelIds": 3}, "c": {"labelIds": 33}}, [IGNORE, IGNORE, 18]),  # -1 is 255
    ],
)
def test_cityscapes_ids(tmp_path, labels, expected):
    data = Cityscapes(cityscapes_folder(tmp_path, labels), "val")
    assert [int(data[index][1][0, 0]) for index in range(len(data))] == expected


def test_cityscapes_names_the_image_without_a_label(tmp_path):
    root = cityscapes_folder(tmp_path, {"a": {"labelTrainIds": 1}, "b": {}})
    with pytest.raises(UserError, match=r"b_leftImg8bit\.png: has no label file \(1 of 2 images have none\)"):
        Cityscapes(root, "val")


def test_ade20k_values(tmp_path):
    """0 is unlabelled, i + 1 is class i; 151 is none."""
    for folder in ("images/validation", "annotations/validation"):
        (tmp_path / folder).mkdir(parents=True)
    for name, value in (("a", 0), ("b", 1), ("c", 150), ("d", 151)):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"images/validation/{name}.JPG")
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / f"annotations/validation/{name}.PNG")
    data = Ade20k(tmp_path, "val")
    assert [int(data[index][1][0, 0]) for index in range(3)] == [IGNORE, 0, 149]
    with pytest.raises(UserError, match=r"d\.PNG: label value 151 is not one of .* \(1 to 150\); unlabelled is 0$"):
        data[3]


def camvid_folder(root: Path, value: int = 3) -> Path:
    for folder in ("train", "trainannot"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(root / "train" / "a.png")
    Image.fromarray(np.full((40, 50), value, np.uint8)).save(root / "trainannot" / "a.png")
    return root


def test_label_outside_the_classes_names_file_value_and_what_is_allowed(tmp_path):
    data = CamVid(camvid_folder(tmp_path, value=14), "train")
    with pytest.raises(UserError, match=r"a\.png: label value 14 is not one of .* \(0 to 10\); unlabelled is 11, 255$"):
        data[0]


def test_corrupted_image_names_the_file(tmp_path):
    data = CamVid(camvid_folder(tmp_path), "train")
    path = tmp_path / "train" / "a.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"train/a\.png: cannot be read as an image"):
        data[0]


def test_labels_of_another_size_are_refused(tmp_path):
    data = CamVid(camvid_folder(tmp_path), "train")
    Image.fromarray(np.zeros((20, 50), np.uint8)).save(tmp_path / "trainannot" / "a.png")
    with pytest.raises(UserError, match=r"labels are \(20, 50\), the image a\.png \(40, 50\)"):
        data[0]


@pytest.mark.parametrize(
    ("prepare", "split", "words"),
    [
        (lambda root: root / "camvit", "train", "no folder .*camvit"),
        (camvid_folder, "trian", "no images in .*trian; did you mean 'train'"),
        (lambda root: (camvid_folder(root) / "trainannot" / "a.png").unlink() or root, "train", "has no label file"),
    ],
)
def test_missing_folders_and_files_are_named(tmp_path, prepare, split, words):
    with pytest.raises(UserError, match=words):
        CamVid(prepare(tmp_path), split)


def test_a_folder_data_set_needs_its_root():
    with pytest.raises(UserError, match=r"data\.root is missing"):
        open_split(DataConfig(dataset="camvid"), "val", 1)


def test_fingerprint_is_of_contents(tmp_path):
    """A copy of a data set on another machine, with other times, is the same; one changed byte is not."""
    root, copy = camvid_folder(tmp_path / "here"), tmp_path / "there"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)
    image = copy / "train" / "a.png"
    os.utime(image, (0, 0))
    assert CamVid(copy, "train").fingerprint == CamVid(root, "train").fingerprint
    changed = bytearray(image.read_bytes())
    changed[-1] ^= 1
    image.write_bytes(changed)
    assert CamVid(copy, "train").fingerprint != CamVid(root, "train").fingerprint


def own_folder(root: Path, value: int = 1) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    for name in ("b.jpg", "a.png"):
        Image.fromarray(rng.integers(0, 255, (8, 12, 3), np.uint8)).save(root / "images/val" / name)
        label = np.full((8, 12), value, np.uint8)
        label[0] = 255
        Image.fromarray(label).save(root / "labels/val" / Path(name).with_suffix(".png").name)
    return root


def test_a_data_set_of_ones_own(tmp_path):
    config = DataConfig(dataset="folders", root=own_folder(tmp_path), classes=("field", "barn"))
    data = open_split(config, "val", 0)
    assert isinstance(data, FolderSamples)
    assert [image.name for image, _ in data.pairs] == ["a.png", "b.jpg"]
    assert data.classes == ("field", "barn")
    image, label = data[0]
    assert image.shape == (8, 12, 3)
    assert (label[0] == IGNORE).all()
    assert (label[1:] == 1).all()


def test_what_is_wrong_with_it_is_told(tmp_path):
    config = DataConfig(dataset="folders", root=own_folder(tmp_path, value=2), classes=("field", "barn"))
    with pytest.raises(
        UserError,
        match=r"a.png: label value 2 is not one of 2 classes \(0 to 1\); unlabelled is 255; data\.ignore: \[2\]",
    ):
        open_split(config, "val", 0)[0]
    with pytest.raises(UserError, match=r"no images in .*images/vall; did you mean 'val'"):
        open_split(config, "vall", 0)
    (tmp_path / "labels/val/a.png").unlink()
    with pytest.raises(UserError, match=r"a.png: has no label file"):
        open_split(config, "val", 0)
    for dataset, classes in (("folders", None), ("camvid", ("field", "barn"))):
        with pytest.raises(ValueError, match="classes are for dataset folders, which needs them"):
            DataConfig(dataset=dataset, root=tmp_path, classes=classes)


def test_label_values_can_be_ignored(tmp_path):
    """CamVid's void, 11, as the folders of a data set of one's own."""
    own_folder(tmp_path, value=11)
    names = tuple("abcdefghijk")
    plain = DataConfig(dataset="folders", root=tmp_path, classes=names)
    with pytest.raises(UserError, match=r"value 11 is not one of 11 classes \(0 to 10\); unlabelled is 255; data"):
        open_split(plain, "val", 0)[0]
    data = open_split(plain.model_copy(update={"ignore": (11,)}), "val", 0)
    assert (data[0][1] == IGNORE).all()
    assert data.fingerprint != open_split(plain, "val", 0).fingerprint  # of caches, rows and states of trainings
    with pytest.raises(ValueError, match="ignore has 10, which is the value of class 'k'"):
        DataConfig(dataset="folders", root=tmp_path, classes=names, ignore=(10,))
    with pytest.raises(ValueError, match="ignore is for dataset folders; the dataset is camvid"):
        DataConfig(dataset="camvid", root=tmp_path, ignore=(11,))


@pytest.mark.parametrize("suffix", [".PNG", ".Png", ".png"])
def test_suffixes_in_upper_case(tmp_path, suffix):
    own_folder(tmp_path)
    for kind in ("images", "labels"):
        (tmp_path / kind / "val/a.png").rename(tmp_path / kind / f"val/a{suffix}")
    (tmp_path / "images/val/b.jpg").rename(tmp_path / "images/val/b.JPEG")
    (tmp_path / "images/val/._a.jpg").write_bytes(b"what macOS leaves on other file systems")
    data = open_split(DataConfig(dataset="folders", root=tmp_path, classes=("field", "barn")), "val", 0)
    assert isinstance(data, FolderSamples)
    assert [image.name for image, _ in data.pairs] == [f"a{suffix}", "b.JPEG"]
    assert data[0][0].shape == (8, 12, 3)


def test_two_images_of_one_name_are_refused(tmp_path):
    shutil.copyfile(own_folder(tmp_path) / "images/val/b.jpg", tmp_path / "images/val/a.jpg")
    with pytest.raises(UserError, match=r"a\.png: a\.jpg differs only in its suffix; rename or remove one"):
        open_split(DataConfig(dataset="folders", root=tmp_path, classes=("field", "barn")), "val", 0)


def test_images_are_turned_with_their_labels(tmp_path):
    """A portrait photograph is stored lying down; its label is drawn over what a viewer shows."""
    own_folder(tmp_path)
    before = open_split(DataConfig(dataset="folders", root=tmp_path, classes=("field", "barn")), "val", 0).fingerprint
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    exif = Image.Exif()
    exif[0x112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "images/val/a.png", exif=exif)
    Image.fromarray(np.eye(12, 8, dtype=np.uint8)).save(tmp_path / "labels/val/a.png")
    data = open_split(DataConfig(dataset="folders", root=tmp_path, classes=("field", "barn")), "val", 0)
    image, label = data[0]
    assert np.array_equal(image, np.rot90(pixels, -1))
    assert np.array_equal(label, np.eye(12, 8))
    assert data.fingerprint != before


def test_names_that_are_no_utf8_are_read(tmp_path):
    root, name = own_folder(tmp_path), os.fsdecode(b"b\xff")
    data = Custom(root, "val", ("x", "y"), ())
    before = data.fingerprint
    (root / "images/val/b.jpg").rename(root / f"images/val/{name}.jpg")
    (root / "labels/val/b.png").rename(root / f"labels/val/{name}.png")
    again = Custom(root, "val", ("x", "y"), ())
    assert len(again) == 2
    assert again.fingerprint != before
