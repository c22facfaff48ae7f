# SPDX-License-Identifier: Apache-2.0
"""A trial of the design card as a worker runs it: DeiT-B at 512 px, 570 images of ADE20K's sizes, every recipe new."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from gpu_steps.models import build, recipes
from gpu_steps.notes import Notes, Setting
from raycomp.compress.saliency import from_gradients
from raycomp.config import SweepConfig
from raycomp.context.sweep_context import SweepContext
from raycomp.data.corruptions import VARIANTS
from raycomp.data.evalset import CLEAN, EvalSet, Stack
from raycomp.devices import prepare_device
from raycomp.memory import keep_freed_memory
from raycomp.recipe import dense
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial


def run(setting: Setting, notes: Notes) -> None:
    prepare_device(setting.device)
    keep_freed_memory()
    context, found = _context(setting), dict[str, Any]()
    chosen = [(name, recipe) for name, recipe in recipes(setting.design).items() if "1.4x" not in name]
    for name, recipe in reversed(chosen):
        taken = [_trial(context, recipe, setting) for _ in range(2)]
        found[name] = {"first_s": taken[0], "then_s": taken[1], "trials_an_hour": 3600 / taken[1]}
        if setting.name == "cuda":
            found[name]["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        notes.put(images=len(context.evalset.variants), trials=found)
    if setting.name == "cuda":
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
            _trial(context, recipe, setting)
        events = profiled.key_averages()
        on_card = sorted(events, key=lambda e: -e.self_device_time_total)[:14]
        on_host = sorted(events, key=lambda e: -e.self_cpu_time_total)[:14]
        notes.put(
            card_ms={e.key[:70]: [e.count, round(e.self_device_time_total / 1e3, 1)] for e in on_card},
            host_ms={e.key[:70]: [e.count, round(e.self_cpu_time_total / 1e3, 1)] for e in on_host},
        )


def _trial(context: SweepContext, recipe: Any, setting: Setting) -> float:
    began = time.perf_counter()
    row = run_trial(context, None, Proposal(0, "search", "proposed", "", recipe), Path(), setting.device, "")
    if row.status != "complete":
        raise RuntimeError(row.error)
    return time.perf_counter() - began


def _context(setting: Setting) -> SweepContext:
    """Random weights, noise as images, 250 clean ones and 4 of each of 80 variants."""
    shape = setting.design
    clean, corrupted = (4, 1) if setting.small else (250, 4)
    height, width = (64, 80) if setting.small else (512, 683)
    stage = {"clean": clean, "corrupted": corrupted}
    config = SweepConfig.model_validate(
        {
            "name": "design",
            "model": {"checkpoint": "none", "shape": shape.model_dump(mode="json")},
            "data": {"dataset": "ade20k", "short_side": height, "stride": min(shape.image)},
            "evaluation": {
                "search": stage,
                "full": stage,
                "batch": setting.batch,
                "dtype": str(setting.dtype).removeprefix("torch."),
            },
        }
    )
    rng, count = np.random.default_rng(0), clean + corrupted * len(VARIANTS)
    pixels = rng.integers(0, 256, count * height * width * 3, dtype=np.uint8)
    regions = rng.integers(
        0, shape.classes, (clean, 4, 4), dtype=np.uint8
    )  # neighbours are of one class, as on photographs
    labels = regions.repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)[:, :height, :width].reshape(-1)
    variants = [CLEAN] * clean + [v for v in range(len(VARIANTS)) for _ in range(corrupted)]
    evalset = EvalSet(
        images=Stack(pixels, np.tile([height, width, 3], (count, 1))),
        labels=Stack(labels, np.tile([height, width, 1], (clean, 1))),
        variants=np.array(variants),
        label_of=np.arange(count) % clean,
        rank=np.array([*range(clean), *list(range(corrupted)) * len(VARIANTS)]),
        classes=tuple(map(str, range(shape.classes))),
        fingerprint="noise",
    )
    dense_model = build(shape, dense(shape), Setting("cpu", setting.small, setting.folder))
    scores = {name: rng.random(size) for name, size in _units(setting).items()}
    weights = {name: tensor.numpy() for name, tensor in dense_model.state_dict().items()}
    return SweepContext(config, shape, "noise", weights, scores, evalset)


def _units(setting: Setting) -> dict[str, tuple[int, ...]]:
    """Sizes of all scores."""
    model = build(setting.design, dense(setting.design), Setting("cpu", setting.small, setting.folder)).float()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return {name: tuple(score.shape) for name, score in from_gradients(model, "taylor").items()}
