"""Export, predict and speed on the device, and a trial that runs out of memory before a good one in one process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gpu_steps.notes import ROOT, SPACE, Notes, Setting
from gpu_steps.sweep import results_of
from raycomp import config as configs
from raycomp.data.streetscenes import StreetScenes
from raycomp.recipe import Recipe, ToMe, dense
from raycomp.results.store import Store
from raycomp.search.base import prepare_base
from raycomp.search.proposal import Proposal
from raycomp.search.trial import run_trial
from raycomp.sections import EvaluationConfig, StageConfig


def run(setting: Setting, notes: Notes) -> None:
    notes.put(out_of_memory=_out_of_memory(setting))
    row = _merging_row(results_of(setting))
    models = setting.folder / "models"
    sweep = ["--sweep", results_of(setting).name, "--results", str(results_of(setting).parent)]
    formats = ["--formats", "safetensors,onnx,pt2", "--out", str(models)]
    said = _raycomp("export", row["recipe_id"], *sweep, *formats)
    notes.put(export=said)
    images = setting.folder / "images"
    images.mkdir(exist_ok=True)
    scenes = [StreetScenes("val", 4)[index][0] for index in range(4)]
    wide = np.concatenate([np.concatenate(scenes[:2], axis=1), np.concatenate(scenes[2:], axis=1)])[:200, :230]
    Image.fromarray(scenes[0]).save(images / "one.png")
    Image.fromarray(wide).save(images / "several_windows.png")
    found: dict[str, Any] = {}
    whole: dict[str, Any] = {}  # what the CPU predicts
    for path in (next(models.glob(f"*{suffix}")) for suffix in (".safetensors", ".onnx", ".pt2")):
        drawn: dict[str, Any] = {}
        for device in {"cpu", setting.name} if path.suffix == ".safetensors" else {setting.name}:
            out = setting.folder / f"{path.suffix[1:]}-{device}"
            words = _raycomp("predict", str(path), str(images), "--out", str(out), "--labels", "--device", device)
            drawn[device] = {"exit_code": words["exit_code"], "said": words["said"][-200:]}
            for name in ("one", "several_windows"):
                if (file := out / f"{name}_labels.png").is_file():
                    drawn[device][name] = np.asarray(Image.open(file))
        whole = whole or drawn.get("cpu", {})
        found[path.suffix] = _compared(whole, drawn[setting.name])
        notes.put(predict=found)
    exported = next(iter(models.glob("*.safetensors")))
    runtimes = "torch,onnxruntime" if setting.name == "cpu" or _onnxruntime_has_cuda() else "torch"
    how = ["--device", setting.name, "--batch", "1,16", "--rounds", "2" if setting.small else "15"]
    words = _raycomp("speed", str(exported), *how, "--runtime", runtimes)
    notes.put(onnxruntime_has_cuda=_onnxruntime_has_cuda(), speed=words)


def _onnxruntime_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _merging_row(folder: Path) -> dict[str, Any]:
    rows = Store(folder).rows()
    return next(row for row in rows if Recipe.model_validate_json(row["recipe_json"]).merge is not None)


def _raycomp(*words: str) -> dict[str, Any]:
    """A command's exit code and last words."""
    start = [sys.executable, "-c", "from raycomp.cli import run; run()"]
    done = subprocess.run([*start, *words], cwd=ROOT, capture_output=True, text=True)
    print(words, done.stdout, done.stderr)
    return {"exit_code": done.returncode, "said": (done.stdout + done.stderr)[-1500:]}


def _compared(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Share of the pixels whose class differs between the CPU and the device."""
    shares: dict[str, Any] = {"exit_code": found["exit_code"]}
    if found["exit_code"]:
        shares["said"] = found["said"]
    for name in ("one", "several_windows"):
        if name in wanted and name in found:
            shares[f"{name}_differs"] = float((wanted[name] != found[name]).mean())
    return shares


def _out_of_memory(setting: Setting) -> dict[str, Any]:
    """A trial with too little memory for its batch, and one after it; on the CPU memory is not limited."""
    config, few = configs.load(SPACE), StageConfig(clean=16, corrupted=1, severities=(3,))
    evaluation = EvaluationConfig(search=few, full=few, batch=16 if setting.small else 2048)
    if not setting.small:  # the set that the other steps made
        evaluation = config.evaluation.model_copy(update={"batch": 512, "first": None})
    base = prepare_base(config.model_copy(update={"evaluation": evaluation}), print)
    merging = ToMe(ratios=(0.1,) * base.shape.depth)
    recipe, found = dense(base.shape).model_copy(update={"merge": merging}), dict[str, Any]()
    for name, share in (("roomy", 1.0), ("tight", 0.01), ("hopeless", 0.0001), ("roomy again", 1.0)):
        if setting.name == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share)
        try:
            row = run_trial(base, None, Proposal(0, "search", "proposed", "", recipe), Path(), setting.device, "")
            found[name] = {"status": row["status"], "batch": row["batch"], "error": row["error"][:200]}
            found[name]["clean_miou"] = row.get("clean_miou")
        except Exception as error:  # how an actor is ended
            found[name] = {"raised": f"{type(error).__name__}: {error}"[:200]}
    return found
