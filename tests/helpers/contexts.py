# SPDX-License-Identifier: Apache-2.0
"""A context over a handful of random images: every method can be matched and measured in a second."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.data.corruptions import VARIANTS
from raycomp.data.evalset import CLEAN, EvalSet, Stack
from raycomp.data.samples import IGNORE
from raycomp.models.policy import Policy
from raycomp.shape import ModelShape
from tests.conftest import TINY, seeded_model, seeded_saliency

SHAPE = TINY.model_copy(update={"width": 64, "depth": 4, "image": (64, 64), "classes": 11})
CLEAN_IMAGES = 4


def tiny_context(shape: ModelShape = SHAPE) -> SweepContext:
    """Build a context for a shape of 64 x 64 pixels and 11 classes."""
    config = SweepConfig.model_validate(
        {
            "name": "tiny",
            "model": {"checkpoint": "none", "shape": shape.model_dump(mode="json")},
            "data": {"dataset": "streetscenes"},
            "evaluation": {"search": {"clean": 2, "corrupted": 1}, "full": {"clean": CLEAN_IMAGES, "corrupted": 1}},
            "policy": {"kind": "small"},
            "nvit": {"embed": 8, "heads": 1, "qk": 2, "v": 2, "mlp": 8, "rounds": 2, "images": 4, "batch": 2},
            "train": {
                "steps": 10,
                "batch": 2,
                "optimizer": "adamw",
                "augment": {"scale": [1, 1]},
                "decoder_dropout": 0,
            },
            "benchmark": {"recovery": {"steps": 0}},
        }
    )
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 255, (CLEAN_IMAGES, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    noise = rng.integers(0, 40, (CLEAN_IMAGES, 64, 64, 3)) * np.arange(CLEAN_IMAGES)[:, None, None, None]
    clean = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    variants = np.array([CLEAN] * CLEAN_IMAGES + list(range(len(VARIANTS))))
    label_of = np.array([*range(CLEAN_IMAGES), *(v % CLEAN_IMAGES for v in range(len(VARIANTS)))])
    images = [*clean, *(255 - clean[i] for i in label_of[CLEAN_IMAGES:])]
    labels = rng.integers(0, 11, (CLEAN_IMAGES, 64, 64)).astype(np.uint8)
    evalset = EvalSet(
        images=Stack.of(images),
        labels=Stack.of(list(labels)),
        variants=variants,
        label_of=label_of,
        rank=np.array([*range(CLEAN_IMAGES), *([0] * len(VARIANTS))]),
        classes=tuple("abcdefghijk"),
        fingerprint="images",
    )
    model = seeded_model(shape)
    torch.manual_seed(0)
    policy = Policy("small", shape.patch)
    return SweepContext(
        config=config,
        shape=shape,
        checkpoint="weights",
        weights={name: tensor.numpy() for name, tensor in model.state_dict().items()},
        scores={name: score.numpy() for name, score in seeded_saliency(model).items()},
        evalset=evalset,
        policy_weights={name: tensor.numpy() for name, tensor in policy.state_dict().items()},
    )


def unlabelled(context: SweepContext, *sources: int) -> EvalSet:
    """The evaluation set of a context without the labels of some of its images."""
    labels = [np.array(view) for view in context.evalset.labels.views()]
    for source in sources:
        labels[source][:] = IGNORE
    return replace(context.evalset, labels=Stack.of(labels))


TWO_CLASSES = TINY.model_copy(update={"classes": 2})


def labelled_folder(root: Path, labelled: tuple[bool, ...]) -> SweepConfig:
    """Training images of which some have labels."""
    rng = np.random.default_rng(0)
    for number, has in enumerate(labelled):
        image, label = rng.integers(0, 255, (*TWO_CLASSES.image, 3)), rng.integers(0, 2, TWO_CLASSES.image)
        for kind, array in (("images", image), ("labels", label if has else label * 0 + 255)):
            (root / kind / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / kind / "train" / f"{number}.png")
    data = {"dataset": "folders", "root": str(root), "classes": ["field", "barn"]}
    nvit = {"images": len(labelled), "batch": 1}
    return SweepConfig.model_validate({"name": "x", "model": {"checkpoint": "x"}, "data": data, "nvit": nvit})
