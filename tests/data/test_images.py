# SPDX-License-Identifier: Apache-2.0
"""Image files of every kind, against arrays that were written into them."""

import io

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image

from raycomp.data.images import read_differently, read_image, read_label
from raycomp.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[..., 0]
DEEP = np.arange(54).reshape(6, 9) * 1200  # up to 63,600
ORIENTED = {  # what a viewer shows of each orientation; TIFF 6.0, page 36
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x112] = orientation
    return made


@pytest.mark.parametrize("orientation", ORIENTED)
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_orientation(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif(orientation), lossless=True)  # which only WebP reads
    assert np.array_equal(read_image(path), ORIENTED[orientation](RGB))
    if suffix != "tiff":  # which Pillow has always turned
        assert read_differently(path.read_bytes(), is_label=False) == (orientation != 1)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_orientation_of_labels_deep_images_and_photographs(tmp_path, orientation):
    turn, path = ORIENTED[orientation], tmp_path / "a.png"
    Image.fromarray(GREY).save(path, exif=exif(orientation))
    assert np.array_equal(read_label(path), turn(GREY))
    Image.fromarray(DEEP.astype(np.uint16)).save(path, exif=exif(orientation))
    assert np.array_equal(read_image(path)[..., 1], turn(DEEP >> 8))
    Image.fromarray(RGB).save(tmp_path / "b.jpg", exif=exif(orientation))
    Image.fromarray(RGB).save(tmp_path / "plain.jpg")
    assert np.array_equal(read_image(tmp_path / "b.jpg"), turn(read_image(tmp_path / "plain.jpg")))


@pytest.mark.parametrize("damaged", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\0\0"])
@pytest.mark.filterwarnings("error")
def test_damaged_exif_data_turn_nothing(tmp_path, damaged):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=damaged)
    assert read_image(tmp_path / "a.jpg").shape == RGB.shape


def alpha(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array.reshape(6, 9, -1), GREY[..., None]], axis=2)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("1.png", Image.fromarray(GREY > 127), (GREY > 127) * 255),
        ("L.png", Image.fromarray(GREY), GREY),
        ("P.png", Image.fromarray(RGB).quantize(256), RGB),
        ("LA.png", Image.fromarray(alpha(GREY)), GREY),
        ("RGBA.png", Image.fromarray(alpha(RGB)), RGB),
        ("CMYK.tiff", Image.fromarray(RGB).convert("CMYK"), RGB),
        ("I16.png", Image.fromarray(DEEP.astype(np.uint16)), DEEP >> 8),
        ("I16.tiff", Image.fromarray(DEEP.astype("<u2")), DEEP >> 8),
        ("I16B.tiff", Image.frombytes("I;16B", (9, 6), DEEP.astype(">u2").tobytes()), DEEP >> 8),
    ],
)
def test_modes(tmp_path, name, image, expected):
    image.save(tmp_path / name)
    found = read_image(tmp_path / name)
    assert (found.shape, found.dtype) == ((6, 9, 3), np.uint8)
    assert np.array_equal(found, np.broadcast_to(expected if expected.ndim == 3 else expected[..., None], found.shape))
    assert read_differently((tmp_path / name).read_bytes(), is_label=False) == name.startswith("I16")


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_of_colour_keep_their_high_byte(tmp_path, suffix):
    deep = np.random.default_rng(1).integers(0, 2**16, (6, 9, 3), np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), deep[..., ::-1])
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), deep >> 8)


@pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "float"), (np.int32, "32-bit")])
def test_values_without_a_known_range_are_refused(tmp_path, dtype, kind):
    Image.fromarray(DEEP.astype(dtype)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=rf"a\.tiff: {kind} values have no known range; save it with 8 or 16 bits"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize(("bits", "count"), [(1, 2), (2, 4), (4, 16), (8, 256)])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_of_few_bits_are_the_values_stored(tmp_path, mode, bits, count):
    if mode == "L" and bits < 8 and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 writes 8 bits whatever is asked for")
    values = (np.arange(54) % count).astype(np.uint8).reshape(6, 9)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(RGB.tobytes() * 4)
    image.save(tmp_path / "a.png", bits=bits)
    if (mode, bits) == ("L", 1):  # Pillow's writer keeps whether a value is more than 0
        assert Image.open(tmp_path / "a.png").mode == "1"
    assert np.array_equal(read_label(tmp_path / "a.png"), values)
    assert read_differently((tmp_path / "a.png").read_bytes(), is_label=True) == (mode == "L" and bits in (2, 4))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_deep_labels_keep_their_values(tmp_path, dtype):
    Image.fromarray(DEEP.astype(dtype)).save(tmp_path / "a.tiff")
    assert np.array_equal(read_label(tmp_path / "a.tiff"), DEEP)


@pytest.mark.parametrize(
    ("array", "what"),
    [(RGB, r"3 channels \(RGB\)"), (alpha(GREY), r"2 channels \(LA\)"), (GREY.astype(np.float32), "fractions")],
)
def test_labels_that_are_none(tmp_path, array, what):
    path = tmp_path / ("a.tiff" if array.dtype == np.float32 else "a.png")
    Image.fromarray(array).save(path)
    with pytest.raises(UserError, match=rf"a label has {what}, expected one integer per pixel"):
        read_label(path)


def test_files_that_are_no_images(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    for data in (b"", b"nothing", buffer.getvalue()[:60], buffer.getvalue()[:-30]):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(UserError, match=r"a\.png: cannot be read as an image \(.+\)$"):
            read_image(tmp_path / "a.png")
        assert not read_differently(data, is_label=False)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(UserError, match=r"a\.png: more than 40 pixels; cut it into smaller images"):
        read_image(tmp_path / "a.png")
