# SPDX-License-Identifier: Apache-2.0
"""Export, predict and speed on the device, and a trial that runs out of memory before a good one in one process."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from typer.testing import CliRunner

from gpu_steps.notes import SPACE, Notes, Setting
from raycomp import config as configs
from raycomp.cli import app
from raycomp.compress.apply import compress
from raycomp.context.preparation import prepare_context
from raycomp.context.sweep_context import SweepContext
from raycomp.data.streetscenes import StreetScenes
from raycomp.deploy import model as models
from raycomp.deploy.model import card_of
from raycomp.deploy.onnx import export_onnx, export_program
from raycomp.evaluate.sliding import normalised
from raycomp.merging import ToMe
from raycomp.recipe import Recipe, dense
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.settings.evaluation import EvaluationConfig, StageConfig

_WINDOWS = ("one", "several_windows")


def run(setting: Setting, notes: Notes) -> None:
    context = _context(setting)
    merging = ToMe(ratios=(0.1,) * context.shape.depth)
    recipe = dense(context.shape).model_copy(update={"merge": merging})
    notes.put(out_of_memory=_out_of_memory(setting, context, recipe))
    exported = _exported(context, recipe, setting.folder / "models")
    runtimes = "torch,onnxruntime" if _onnxruntime_has_cuda() else "torch"
    how = ["--device", setting.name, "--batch", "1,16", "--rounds", "2" if setting.small else "15"]
    words = _raycomp("speed", str(exported[0]), *how, "--runtime", runtimes)
    notes.put(onnxruntime_has_cuda=_onnxruntime_has_cuda(), speed=words)
    images = setting.folder / "images"
    images.mkdir(exist_ok=True)
    scenes = [StreetScenes("val", 4)[index][0] for index in range(4)]
    wide = np.concatenate([np.concatenate(scenes[:2], axis=1), np.concatenate(scenes[2:], axis=1)])[:200, :230]
    for name, pixels in zip(_WINDOWS, (scenes[0], wide), strict=True):
        Image.fromarray(pixels).save(images / f"{name}.png")
    wanted = _predicted(setting, exported[0], images, "cpu")
    found: dict[str, Any] = {}
    for path in exported:
        found[path.suffix] = _compared(wanted, _predicted(setting, path, images, setting.name))
        notes.put(predict=found)


def _context(setting: Setting) -> SweepContext:
    """The embedded default, its evaluation set measured in large batches."""
    config, few = configs.load(SPACE), StageConfig(clean=16, corrupted=1, severities=(3,))
    evaluation = EvaluationConfig(search=few, full=few, batch=16)
    if not setting.small:  # the set that the other steps made
        evaluation = config.evaluation.model_copy(update={"batch": 512, "first": None})
    return prepare_context(config.model_copy(update={"evaluation": evaluation}), print)


def _exported(context: SweepContext, recipe: Recipe, folder: Path) -> list[Path]:
    """The model of a recipe in every format, checked on the CPU as `raycomp export` does."""
    folder.mkdir(exist_ok=True)
    model = compress(context.model, recipe, None).float().eval()
    card = card_of(model, context.config.data, tuple(context.evalset.classes))
    images = np.stack(context.evalset.images.views()[:4])
    x = normalised(torch.from_numpy(images), card.mean, card.std, torch.float32)
    paths = [folder / f"model{suffix}" for suffix in (".safetensors", ".onnx", ".pt2")]
    models.save(model, card, paths[0])
    export_onnx(model, card, paths[1], x)
    export_program(model, card, paths[2], x)
    return paths


def _predicted(setting: Setting, model: Path, images: Path, device: str) -> dict[str, Any]:
    """Labels that `raycomp predict` writes, its exit code and its last words."""
    out = setting.folder / f"{model.suffix[1:]}-{device}"
    words = _raycomp("predict", str(model), str(images), "--out", str(out), "--labels", "--device", device)
    files = {name: out / f"{name}_labels.png" for name in _WINDOWS}
    labels = {name: np.asarray(Image.open(file)) for name, file in files.items() if file.is_file()}
    return {"exit_code": words["exit_code"], "said": words["said"][-200:], **labels}


def _onnxruntime_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _raycomp(*words: str) -> dict[str, Any]:
    """A command's exit code and last words."""
    done = CliRunner().invoke(app, words)
    print(words, done.output, done.exception)
    return {"exit_code": done.exit_code, "said": f"{done.output[-1500:]} {done.exception or ''}"}


def _compared(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Share of the pixels whose class differs between the CPU and the device."""
    shares: dict[str, Any] = {"exit_code": found["exit_code"]}
    if found["exit_code"]:
        shares["said"] = " ".join(found["said"].split())
    for name in ("one", "several_windows"):
        if name in wanted and name in found:
            shares[f"{name}_differs"] = float((wanted[name] != found[name]).mean())
    return shares


def _out_of_memory(setting: Setting, context: SweepContext, recipe: Recipe) -> dict[str, Any]:
    """Trials of one process with less and less memory, and then with all of it; on the CPU memory is not limited."""
    found: dict[str, Any] = {}
    for name, share in (("all", 1.0), ("a hundredth", 0.01), ("next to none", 0.0001), ("all again", 1.0)):
        if setting.name == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share)
        try:
            row = run_trial(context, None, Proposal(0, "search", "proposed", "", recipe), Path(), setting.device, "")
            found[name] = {"status": row.status, "batch": row.batch, "error": row.error[:200]}
            found[name]["clean_miou"] = row.clean_miou
        except Exception as error:  # how an actor is ended
            found[name] = {"raised": f"{type(error).__name__}: {error}"[:200]}
    return found
