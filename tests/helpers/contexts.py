"""A context over a handful of random images: every method can be matched and measured in a second."""

import numpy as np
import torch

from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.data.corruptions import VARIANTS
from raycomp.data.evalset import CLEAN, EvalSet, Stack
from raycomp.models.policy import Policy
from tests.conftest import TINY, seeded_model, seeded_saliency

SHAPE = TINY.model_copy(update={"width": 64, "depth": 4, "image": (64, 64), "classes": 11})
CLEAN_IMAGES = 4


def tiny_context() -> SweepContext:
    config = SweepConfig.model_validate(
        {
            "name": "tiny",
            "model": {"checkpoint": "none", "shape": SHAPE.model_dump(mode="json")},
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
    model = seeded_model(SHAPE)
    torch.manual_seed(0)
    policy = Policy("small", SHAPE.patch)
    return SweepContext(
        config=config,
        shape=SHAPE,
        checkpoint="weights",
        weights={name: tensor.numpy() for name, tensor in model.state_dict().items()},
        scores={name: score.numpy() for name, score in seeded_saliency(model).items()},
        evalset=evalset,
        policy_weights={name: tensor.numpy() for name, tensor in policy.state_dict().items()},
    )
