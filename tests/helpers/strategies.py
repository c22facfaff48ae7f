# SPDX-License-Identifier: Apache-2.0
"""What people and their tools put into files, paths and environments, right and wrong."""

import io
import json
import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import TINY

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
ODD_NAMES = st.one_of(
    st.sampled_from(
        ["it's", 'a"b', "a b", "[x]", "{split}", "*", "?", "#", "%20", "ünï 図", "-x", "--help", "~", "$HOME", "a\nb",
         "\x1b[31m", "a" * 255, "a" * 300, ".hidden", "con", "a\\b", "\udcff", "x.png", "=", "a,b", "\u202e", " ", "ß"]
    ),
    NAMES,
)  # fmt: skip
"""Names of files and folders: surrogates stand for bytes that are no UTF-8."""

NUMBERS = st.one_of(
    st.sampled_from(
        [0, 1, -1, 2, 3, 255, 256, 2**31, 2**63, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-300, 1e300, 1.5,
         math.nan, math.inf, -math.inf]
    ),
    st.integers(-1000, 1000),
    st.floats(),
)  # fmt: skip
SCALARS = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(
        [
            "40%",
            "0%",
            "1.2.3",
            "%",
            "nan",
            "1e3",
            "",
            "a\nb",
            "a" * 5000,
            "package:none",
            "$a_$",
            "/",
            "none.safetensors",
        ]
    ),
    st.dates(),
    st.binary(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.one_of(st.text(max_size=6), st.integers(), st.none()), inner, max_size=3)
    ),
    max_leaves=6,
)

SPACE: dict[str, Any] = {
    "name": "tiny",
    "model": {"checkpoint": "in/export.safetensors", "shape": TINY.model_dump(mode="json"), "elastic": None},
    "data": {"dataset": "streetscenes", "window": [48, 64], "stride": 48, "short_side": 48, "long_side": 96},
    "evaluation": {"search": {"clean": 2, "corrupted": 1, "severities": [1, 3]}, "full": {"clean": 4, "corrupted": 1}},
    "space": {"mlp": {"low": 64, "step": 16}, "heads": {"low": 2, "step": 1}, "merge_high": 0.5, "merge_step": 0.125},
    "recovery": {"mode": "none", "steps": 0},
    "search": {
        "trials": 6,
        "budget": "80%",
        "baselines": ["70%", 0.5],
        "sampler": "random",
        "seed": 0,
        "cost_metric": "gflops",
    },
    "train": {"steps": 2, "batch": 2, "crop": [48, 64], "augment": {"scale": [1, 1], "flip": False}},
    "policy": {"kind": "small"},
    "elastic": {"least": "50%"},
    "refine": {"seeds": [0, 1]},
    "nvit": {"embed": 8, "heads": 1, "rounds": 2},
    "benchmark": {"methods": ["tome"], "speedups": [1.4], "seeds": [0]},
}
"""A search space that is right, with most of what a file may say."""
_KEYS = st.one_of(
    st.sampled_from(["serach", "vit", "name", "<<", "", "a.b", "limit", "first", "self", "shape", "values"]),
    st.text(max_size=6),
    st.integers(-3, 3),
    st.none(),
    st.booleans(),
    st.floats(),
)


def changed(tree: Any, draw: Callable[[Any], Any], values: Any = VALUES) -> Any:
    """A copy of a tree of mappings and lists with some of its parts replaced, removed, added or renamed."""
    tree = {"": deepcopy(tree)}
    for _ in range(draw(st.integers(0, 3))):
        parent, key = tree, ""
        while isinstance(parent[key], dict | list) and parent[key] and (parent is tree or draw(st.integers(0, 3))):
            parent = parent[key]
            keys = sorted(parent, key=repr) if isinstance(parent, dict) else range(len(parent))
            key = draw(st.sampled_from(list(keys)))
        what = draw(st.sampled_from(["replace", "replace", "remove", "add", "rename"]))
        if what == "replace" or parent is tree:
            parent[key] = draw(values)
        elif what == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(draw(values))
        else:
            parent[draw(_KEYS)] = parent.pop(key) if what == "rename" else draw(values)
        if not isinstance(tree[""], dict | list):
            break
    return tree[""]


_FRAGMENTS = st.sampled_from(
    ["&a ", "*a", "<<: *a\n", "!!python/object:os.system ", "!!python/tuple ", "!!binary x", "!!int x", "!!float x",
     "!!timestamp x", "!!set {a, a}", "!!omap [1]", "!!pairs [a]", "!!null 1", "!!bool x", "!!str [", "!x ",
     "2001-99-99", "? [a]\n: b\n", "---\n", "...\n", "%YAML 9.9\n", "\t", "\0", "\ufeff", "\x85", "\x1b", "{", "[", "]",
     "}", ": ", "- ", "|\n", ">-\n", "'", '"', "#", "name: twice\n", "search: {}\n", "1_000", "0x", "0b", "1:60",
     ".nan", ".inf", "1e999", "~", "é", "[" * 3000, "{a: " * 600, "9" * 5000, "&a [*a]", "&a {x: *a}", "0o8", "=",
     "{[a]: b}", "{{a: b}: c}"]
)  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Writes what a tree has, without anchors for what it has twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@st.composite
def yaml_files(draw: Any, tree: Any) -> bytes:
    """The bytes of a YAML file: a changed tree, of which the text may then be damaged, or no YAML at all."""
    kind = draw(st.sampled_from(["tree", "tree", "tree", "text", "any"]))
    if kind == "any":
        return draw(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda s: s.encode("utf-8", "replace"))))
    text = yaml.dump(changed(tree, draw), Dumper=_Dumper, sort_keys=False, allow_unicode=draw(st.booleans()))
    if kind == "text":
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(text)))
            text = text[:at] + draw(_FRAGMENTS) + text[at + draw(st.integers(0, 3)) :]
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-16", "latin-1", "utf-8-sig"]))
    return (
        damaged(draw, text.encode(encoding, "replace"))
        if draw(st.integers(0, 9)) == 0
        else text.encode(encoding, "replace")
    )


def damaged(draw: Callable[[Any], Any], data: bytes) -> bytes:
    """Bytes cut off, overwritten, or followed by others."""
    match draw(st.sampled_from(["cut", "overwrite", "more", "empty"])):
        case "cut":
            return data[: len(data) * draw(st.integers(0, 1000)) // 1000]  # encoders may differ by a byte or two
        case "overwrite":
            at, other = draw(st.integers(0, 400)), draw(st.binary(min_size=1, max_size=8))
            return data[:at] + other + data[at + len(other) :]
        case "more":
            return data + draw(st.binary(max_size=20))
    return b""


_MODES = ("RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "I", "I;16", "F", "YCbCr", "LAB", "HSV")
SUFFIXES = (".png", ".PNG", ".jpg", ".JPEG", ".bmp", ".webp", ".tif", ".TIFF", ".gif", ".txt", "", ".png.png", ".npy")


@st.composite
def image_files(draw: Any, modes: tuple[str, ...] = _MODES, classes: int = 5) -> bytes:
    """The bytes of an image or label file of any mode, size, orientation and format, some of them damaged."""
    size = draw(st.one_of(st.sampled_from([(64, 48), (48, 64), (33, 35), (1, 1), (1, 60), (70, 1)]),
                          st.tuples(st.integers(1, 80), st.integers(1, 80))))  # fmt: skip
    mode = draw(st.sampled_from(modes))
    rng = np.random.default_rng(draw(st.integers(0, 3)))
    high = draw(st.sampled_from([classes, classes, classes + 1, 256, 65536]))
    low = draw(st.sampled_from([0, 0, 0, -1, -3]))
    values = rng.integers(low, high, size[::-1])
    if mode in ("I", "I;16", "F"):
        kinds = {"I": np.int32, "I;16": np.uint16, "F": np.float32}
        image = Image.fromarray(values.astype(kinds[mode]))
    else:
        image = Image.fromarray((values % 256).astype(np.uint8)).convert("L")
        if mode == "P":
            image = Image.frombytes("P", size, image.tobytes())
            image.putpalette(list(rng.integers(0, 256, 768)))
        elif mode == "LAB":
            image = Image.merge("LAB", [image] * 3)
        else:
            image = image.convert("RGB").convert(mode) if mode != "L" else image
    exif = Image.Exif()
    if (turn := draw(st.sampled_from([None, None, 1, 3, 6, 8, 0, 99]))) is not None:
        exif[0x112] = turn
    kind = draw(st.sampled_from(["png", "png", "jpeg", "bmp", "webp", "tiff", "gif", "ppm"]))
    more = draw(st.sampled_from([{}, {}, {"bits": 4}, {"bits": 2}, {"transparency": 0}, {"save_all": True}]))
    for picture, options in ((image, {"exif": exif, **more}), (image.convert("RGB"), {})):
        held = io.BytesIO()
        try:
            picture.save(held, kind, **options)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # a mode that a format does not have
            continue
        return damaged(draw, held.getvalue()) if draw(st.integers(0, 5)) == 0 else held.getvalue()
    return b""


def _plain(held: Any) -> bool:
    return isinstance(held, torch.Tensor) and held.layout == torch.strided and held.numel() > 0


_DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn)


def with_tensors_changed(draw: Callable[[Any], Any], right: dict[str, torch.Tensor]) -> dict[Any, Any]:
    """Weights of which some are missing, renamed, new, of another shape or dtype, not finite, or no tensors."""
    held: dict[Any, Any] = dict(right)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(held, key=str)))
        tensor = held[name]
        what = draw(
            st.sampled_from(
                [
                    "remove",
                    "rename",
                    "add",
                    "shape",
                    "dtype",
                    "nan",
                    "inf",
                    "value",
                    "scalar",
                    "empty",
                    "sparse",
                    "stride",
                ]
            )
        )
        if what in ("add", "value", "rename") or not _plain(tensor):
            key = name if what == "value" else draw(st.one_of(_KEYS, st.just(f"{name}.x"), st.just(f"module.{name}")))
            held[key] = held.pop(name) if what == "rename" else draw(VALUES)
        elif what == "remove":
            del held[name]
        elif what == "shape":
            held[name] = torch.zeros(draw(st.lists(st.integers(0, 9), max_size=5)))
        elif what == "dtype":
            held[name] = tensor.to(draw(st.sampled_from(_DTYPES)))
        elif what in ("nan", "inf"):
            held[name] = tensor.float().clone()
            held[name].view(-1)[0] = float(what)
        elif what == "scalar":
            held[name] = torch.tensor(1.0)
        elif what == "empty":
            held[name] = torch.empty(0)
        elif what == "sparse":
            held[name] = tensor.float().to_sparse()
        elif what == "stride":
            held[name] = tensor.float().flip(0) if tensor.ndim else tensor
        if not held:
            break
    return held


def with_fields_changed(draw: Callable[[Any], Any], right: dict[str, str]) -> dict[str, str]:
    """The header of a safetensors file, which is text by name, some of it changed; JSON inside as a tree."""
    held = dict(right)
    for _ in range(draw(st.integers(0, 2))):
        if not held:
            break
        name = draw(st.sampled_from(sorted(held)))
        match draw(st.sampled_from(["remove", "text", "json", "json", "json", "rename"])):
            case "remove":
                del held[name]
            case "rename":
                held[draw(st.text(max_size=6))] = held.pop(name)
            case "text":
                held[name] = draw(
                    st.one_of(st.text(max_size=8), st.sampled_from(["{}", "[]", "null", "0", "-1", "small"]))
                )
            case _:
                try:
                    tree = json.loads(held[name])
                except ValueError:
                    tree = held[name]
                held[name] = json.dumps(changed(tree, draw), default=str)
    return held
