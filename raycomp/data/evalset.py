"""Evaluation images, clean and corrupted: made once, cached on disk, shared by every trial.

The set holds `full.clean` clean images and, of each of the 80 corrupted variants, `full.corrupted`
images. Variant v takes images v*n, v*n + 1, ... (modulo the set), so a small stage still sees many
different images; with as many corrupted as clean images, every variant has them all, which is the
paper's protocol. The search stage takes the first images of each, so it is a subset of the full one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
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
from raycomp.data.samples import IGNORE, Sample, Samples, nothing_labelled
from raycomp.errors import UserError
from raycomp.settings.evaluation import EvaluationConfig, StageConfig
from raycomp.settings.model_and_data import DataConfig

CLEAN = -1  # the variant of an image that is not corrupted


@dataclass(frozen=True)
class Stack:
    """Images of any sizes in one flat array: cheap to share between processes."""

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
        """Every image, without a copy."""
        ends = self.shapes.prod(1).cumsum()
        return [
            self.pixels[end - shape.prod() : end].reshape(tuple(int(s) for s in shape))
            for end, shape in zip(ends, self.shapes, strict=True)
        ]


@dataclass(frozen=True)
class EvalSet:
    """Images to measure on. `variants[i]` is -1 for a clean image, else an index into VARIANTS."""

    images: Stack
    labels: Stack
    """At the size of the images."""
    variants: np.ndarray
    """(images,) int64."""
    label_of: np.ndarray
    """(images,) int64: which label belongs to each image."""
    rank: np.ndarray
    """(images,) int64: the image's place within its variant; a stage takes the first ranks."""
    classes: tuple[str, ...]
    fingerprint: str
    originals: Stack | None = None
    """Labels at the size of their files, where that is not the images'."""

    def chosen(self, stage: StageConfig) -> np.ndarray:
        """Indices of the images of a stage."""
        severity = np.array(corruptions.SEVERITIES)[self.variants % len(corruptions.SEVERITIES)]
        corrupted = (self.rank < stage.corrupted) & np.isin(severity, stage.severities)
        return np.flatnonzero(np.where(self.variants == CLEAN, self.rank < stage.clean, corrupted))


def prepare(data: DataConfig, evaluation: EvaluationConfig, report: Callable[[int, int], None]) -> EvalSet:
    """Read the evaluation set from the cache, or make it and put it there.

    Args:
        report: called with variants done and in all while the set is being made.

    Raises:
        UserError: for missing or broken data, or more images wanted than the split has.
    """
    samples = open_checked(data, evaluation)
    key = _key(samples, data, evaluation)
    folder = cache_folder() / f"evalset-{key}"
    if not (folder / "facts.json").is_file():
        _make(folder, samples, data, evaluation, report)
    return _read(folder, tuple(samples.classes), key)


def cache_folder() -> Path:
    """Where made data is kept: RAYCOMP_CACHE, else the user's cache folder.

    Raises:
        UserError: for a user without a home, as in some containers.
    """
    if own := os.environ.get("RAYCOMP_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raycomp"
    except RuntimeError:
        raise UserError("this user has no home folder to keep made data in; set RAYCOMP_CACHE to a folder") from None


def _key(samples: Samples, data: DataConfig, evaluation: EvaluationConfig) -> str:
    facts = [
        samples.fingerprint if data.classes is None else f"{samples.fingerprint} {data.classes}",
        data.short_side,
        evaluation.full.clean,
        evaluation.full.corrupted,
        evaluation.seed,
        corruptions.VERSION,
        *([] if data.short_side is None else ["original labels", data.long_side]),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def open_checked(data: DataConfig, evaluation: EvaluationConfig) -> Samples:
    """The split to be measured on.

    Raises:
        UserError: for missing data, or more images wanted than the split has.
    """
    full = evaluation.full
    samples = open_split(data, data.eval_split, full.clean)
    for field in ("clean", "corrupted"):
        most, wanted = getattr(full, field), getattr(evaluation.search, field)
        if most > len(samples):
            raise UserError(
                f"evaluation.full.{field} is {most}; {data.dataset} {data.eval_split} has {len(samples)} images"
            )
        if wanted > most:
            raise UserError(f"evaluation.search.{field} is {wanted}; at most evaluation.full.{field}, {most}")
    return samples


def _make(
    folder: Path, samples: Samples, data: DataConfig, evaluation: EvaluationConfig, report: Callable[[int, int], None]
) -> None:
    """Corrupt in all cores, then move the finished folder to its place in one step."""
    try:  # before the corruptions, which take long
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    full = evaluation.full
    clean, originals = [], []
    for index in range(full.clean):
        image, label = samples[index]
        clean.append(resized((image, label), data.scale.of(image.shape[:2])))
        originals.append(label)
    if all((label == IGNORE).all() for label in originals):  # as above
        raise nothing_labelled(data.eval_split, len(clean))
    images, variants, label_of, rank = [], [], [], []
    for index, (image, _) in enumerate(clean):
        images.append(image)
        variants.append(CLEAN)
        label_of.append(index)
        rank.append(index)
    jobs = list(_corruption_jobs(clean, full.corrupted, evaluation.seed))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        done = pool.map(_corrupt_one_variant, (job[:-1] for job in jobs))
        for variant, (corrupted, (*_, indices)) in enumerate(zip(done, jobs, strict=True)):
            report(variant + 1, len(jobs))
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
        if folder.exists():  # a folder without facts is not ours to trust
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        if not (folder / "facts.json").is_file():  # unless another process was first
            raise _unwritable(folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: cannot write the evaluation cache ({error.strerror})")


_Job = tuple[list[np.ndarray], str, int, list[int], list[int]]


def _corruption_jobs(clean: Sequence[Sample], count: int, seed: int) -> Iterator[_Job]:
    """For each variant: images, type, severity, seeds, and the images' indices."""
    for variant, (kind, severity) in enumerate(corruptions.VARIANTS):
        indices = [(variant * count + offset) % len(clean) for offset in range(count)]
        yield [clean[i][0] for i in indices], kind, severity, [seed * 1_000_003 + i for i in indices], indices


def _corrupt_one_variant(job: tuple[list[np.ndarray], str, int, list[int]]) -> list[np.ndarray]:
    images, kind, severity, seeds = job
    cv2.setNumThreads(1)
    make = partial(corruptions.corrupt, kind=kind, severity=severity)
    return [make(image, seed=seed) for image, seed in zip(images, seeds, strict=True)]


def _read(folder: Path, classes: tuple[str, ...], key: str) -> EvalSet:
    def stack(name: str) -> Stack:
        return Stack(np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / f"{name}_shapes.npy"))

    try:
        variants, label_of, rank = np.load(folder / "index.npy")
        originals = stack("originals") if (folder / "originals.npy").is_file() else None
        return EvalSet(stack("images"), stack("labels"), variants, label_of, rank, classes, key, originals)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: the evaluation cache is damaged ({error}); delete the folder") from None
