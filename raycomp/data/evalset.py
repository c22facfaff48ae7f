# SPDX-License-Identifier: Apache-2.0
"""Evaluation images, clean and corrupted: made once, cached on disk, shared by all trials.

The set holds `full.clean` clean images and `full.corrupted` images of each of the 80 corrupted variants.
Variant v takes images v*n, v*n + 1, ... (modulo the set), so that even a small stage covers many
different images. With as many corrupted as clean images, every variant has all of them, which is the
paper's protocol. The search stage takes the first images of each variant, a subset of the full stage.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from raycomp.data import corruptions
from raycomp.data.datasets import open_split
from raycomp.data.resize import resized
from raycomp.data.samples import IGNORE, Samples, nothing_labelled
from raycomp.errors import UserError
from raycomp.settings.evaluation import EvaluationConfig, StageConfig
from raycomp.settings.model_and_data import DataConfig

CLEAN = -1  # the variant of an image that is not corrupted


@dataclass(frozen=True)
class Stack:
    """Images of any sizes in one flat array, cheap to share between processes."""

    pixels: np.ndarray
    """(total,) uint8."""
    shapes: np.ndarray
    """(n, 3) int64: height, width, channels; 1 channel for labels."""

    @classmethod
    def of(cls, images: Sequence[np.ndarray]) -> "Stack":
        shapes = np.array([image.shape if image.ndim == 3 else (*image.shape, 1) for image in images], np.int64)
        return cls(np.concatenate([image.reshape(-1) for image in images]), shapes.reshape(-1, 3))

    def __len__(self) -> int:
        return len(self.shapes)

    def views(self) -> list[np.ndarray]:
        """Return every image, without copying."""
        ends = self.shapes.prod(1).cumsum()
        return [
            self.pixels[end - shape.prod() : end].reshape(tuple(int(s) for s in shape))
            for end, shape in zip(ends, self.shapes, strict=True)
        ]


@dataclass(frozen=True)
class EvalSet:
    """Images to measure on. `variants[i]` is -1 for a clean image, otherwise an index into VARIANTS."""

    images: Stack
    labels: Stack
    """Labels at the size of the images."""
    variants: np.ndarray
    """(images,) int64."""
    label_of: np.ndarray
    """(images,) int64: index of each image's label."""
    rank: np.ndarray
    """(images,) int64: the image's position within its variant; a stage takes the lowest ranks."""
    classes: tuple[str, ...]
    fingerprint: str
    originals: Stack | None = None
    """Labels at their stored size, if that differs from the size of the images."""

    def chosen(self, stage: StageConfig) -> np.ndarray:
        """Return the indices of a stage's images."""
        severity = np.array(corruptions.SEVERITIES)[self.variants % len(corruptions.SEVERITIES)]
        corrupted = (self.rank < stage.corrupted) & np.isin(severity, stage.severities)
        return np.flatnonzero(np.where(self.variants == CLEAN, self.rank < stage.clean, corrupted))


def prepare(data: DataConfig, evaluation: EvaluationConfig, report: Callable[[int, int], None]) -> EvalSet:
    """Read the evaluation set from the cache, or make and cache it.

    Args:
        report: called with the number of finished variants and of all variants while the set is made.

    Raises:
        UserError: if data is missing or damaged, or the split has too few images.
    """
    samples = open_checked(data, evaluation)
    key = _key(samples, data, evaluation)
    folder = cache_folder() / f"evalset-{key}"
    if not (folder / "facts.json").is_file():
        _make(folder, samples, data, evaluation, report)
    return _read(folder, tuple(samples.classes), key)


def cache_folder() -> Path:
    """Return the cache folder: RAYCOMP_CACHE, or else the user's cache folder.

    Raises:
        UserError: if the user has no home folder, as in some containers.
    """
    if folder := os.environ.get("RAYCOMP_CACHE"):
        return Path(folder)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raycomp"
    except RuntimeError:
        raise UserError("this user has no home folder for cached data; set RAYCOMP_CACHE to a folder") from None


def _key(samples: Samples, data: DataConfig, evaluation: EvaluationConfig) -> str:
    content = [
        samples.fingerprint if data.classes is None else f"{samples.fingerprint} {data.classes}",
        *(data.short_side, evaluation.full.clean, evaluation.full.corrupted, evaluation.seed, corruptions.VERSION),
        *(() if data.short_side is None else ("original labels", data.long_side)),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def open_checked(data: DataConfig, evaluation: EvaluationConfig) -> Samples:
    """Open the split to measure on.

    Raises:
        UserError: if data is missing, or the split has too few images.
    """
    full = evaluation.full
    samples = open_split(data, data.eval_split, full.clean)
    for field in ("clean", "corrupted"):
        total, searched = getattr(full, field), getattr(evaluation.search, field)
        if total > len(samples):
            raise UserError(
                f"evaluation.full.{field} is {total}; {data.dataset} {data.eval_split} has {len(samples)} images"
            )
        if searched > total:
            raise UserError(f"evaluation.search.{field} is {searched}; at most evaluation.full.{field}, {total}")
    return samples


def _make(
    folder: Path, samples: Samples, data: DataConfig, evaluation: EvaluationConfig, report: Callable[[int, int], None]
) -> None:
    """Corrupt images on all cores, then move the finished folder into place in one step."""
    try:  # fail before the slow corruptions
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    full = evaluation.full
    clean, originals = [], []
    for index in range(full.clean):
        image, label = samples[index]
        clean.append(resized((image, label), data.scale.of(image.shape[:2])))
        originals.append(label)
    if all((label == IGNORE).all() for label in originals):  # fail early, too
        raise nothing_labelled(data.eval_split, len(clean))
    images, variants = [image for image, _ in clean], [CLEAN] * len(clean)
    label_of, rank = list(range(len(clean))), list(range(len(clean)))
    count, total = full.corrupted, len(corruptions.VARIANTS)
    sources = [[(variant * count + offset) % len(clean) for offset in range(count)] for variant in range(total)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        inputs = ([images[index] for index in indices] for indices in sources)
        done = pool.map(partial(_corrupt_variant, evaluation.seed), range(total), sources, inputs)
        for variant, (corrupted, indices) in enumerate(zip(done, sources, strict=True)):
            report(variant + 1, total)
            images += corrupted
            variants += [variant] * len(corrupted)
            label_of += indices
            rank += range(len(corrupted))
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        stacks = {"images": Stack.of(images), "labels": Stack.of([label for _, label in clean])}
        if data.short_side is not None:
            stacks["originals"] = Stack.of(originals)
        for name, stack in stacks.items():
            np.save(temporary / f"{name}.npy", stack.pixels)
            np.save(temporary / f"{name}_shapes.npy", stack.shapes)
        np.save(temporary / "index.npy", np.array([variants, label_of, rank], np.int64))
        (temporary / "facts.json").write_text(json.dumps({"images": len(images)}))
        if folder.exists():  # incomplete without facts.json
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        if not (folder / "facts.json").is_file():  # another process did not make it first
            raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot write the evaluation cache ({error.strerror})")


def _corrupt_variant(seed: int, variant: int, indices: list[int], images: list[np.ndarray]) -> list[np.ndarray]:
    """Corrupt clean images, given with their indices in the set, as one variant."""
    cv2.setNumThreads(1)
    kind, severity = corruptions.VARIANTS[variant]
    seeded = zip(images, (seed * 1_000_003 + index for index in indices), strict=True)
    return [corruptions.corrupt(image, kind, severity, image_seed) for image, image_seed in seeded]


def _read(folder: Path, classes: tuple[str, ...], key: str) -> EvalSet:
    def stack(name: str) -> Stack:
        return Stack(np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / f"{name}_shapes.npy"))

    try:
        variants, label_of, rank = np.load(folder / "index.npy")
        originals = stack("originals") if (folder / "originals.npy").is_file() else None
        return EvalSet(stack("images"), stack("labels"), variants, label_of, rank, classes, key, originals)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the evaluation cache is damaged ({error}); delete the folder") from None
