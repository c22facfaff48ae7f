# SPDX-License-Identifier: Apache-2.0
"""Deployed speed: latency, throughput and GFLOPs relative to the dense model, in torch and onnxruntime."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raycomp.deploy.engines import Bind, exported, graph_runs, session_runs, torch_runs
from raycomp.deploy.model import CARD_FIELD, parse_card
from raycomp.deploy.precision_facts import parse_facts
from raycomp.errors import UserError
from raycomp.evaluate.latency import median_seconds, own_clock
from raycomp.flops import gflops
from raycomp.models.readers import own
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import Recipe, dense
from raycomp.shape import ModelShape, Size

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DENSE = "dense"
_DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_WARM_UP = 3


@dataclass(frozen=True)
class Speed:
    """Speed of one model in one runtime at one batch size."""

    model: str
    runtime: str
    batch: int
    gflops: float
    latency_ms: float
    """Median time of a batch; of a single thread, without its waiting."""
    images_per_second: float
    saved: float
    """GFLOPs of the dense model divided by this model's."""
    gained: float
    """Time of the dense model divided by this model's; their runs took turns."""
    precision: str = "fp32"
    """`fp32`, `fp16`, `bf16` or `int8`."""

    @property
    def ratio(self) -> float:
        """Share of the FLOPs reduction that became speed."""
        return self.gained / self.saved

    @property
    def in_vain(self) -> bool:
        """Whether the model saves FLOPs but no time."""
        return self.saved > 1 and self.gained <= 1


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that `raycomp export` wrote, open in onnxruntime."""

    session: "InferenceSession"
    shape: ModelShape
    recipe: Recipe
    precision: str

    @property
    def size(self) -> Size:
        """Height and width of its input."""
        height, width = self.session.get_inputs()[0].shape[2:]
        return height, width


def open_onnx(path: Path, device: torch.device) -> OnnxFile:
    """Open an ONNX file with as many threads as torch has.

    Raises:
        UserError: if it is not a raycomp export, or cannot run on the device.
    """
    from raycomp.deploy.onnx import read_session

    session = read_session(path, device, torch.get_num_threads())
    metadata = session.get_modelmeta().custom_metadata_map
    parse_card(metadata.get(CARD_FIELD), path)
    shape, recipe = own.shape_and_recipe(path, metadata)
    return OnnxFile(session, shape, recipe, parse_facts(metadata, path).precision)


def speeds(
    models: Mapping[str, Segmenter | OnnxFile],
    runtimes: Sequence[str],
    batches: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
    say: Callable[[str], None] = lambda _: None,
    compiled: bool = False,
) -> list[Speed]:
    """Time models of one dense shape against a dense model with random weights.

    In both runtimes, images and logits stay on the device, so no host copies are timed. ONNX files and INT8 recipes run
    in onnxruntime alone.

    Args:
        models: of one image size; that of a Segmenter is its shape's.
        say: receives progress messages; each onnxruntime graph takes seconds to build.
        compiled: use torch.compile for all models in torch, including the dense model, with static shapes per batch.

    Raises:
        UserError: if the shapes or image sizes differ, merging is adaptive, onnxruntime does not support the precision
            or device, a runtime cannot run the models, or torch cannot compile them.
    """
    shape, size = _common(models)
    if "onnxruntime" in runtimes:
        if dtype != torch.float32:
            raise UserError(f"--dtype {str(dtype).removeprefix('torch.')}: onnxruntime is timed in float32")
        from raycomp.deploy.onnx import check_device

        check_device(device)
    timed: dict[str, Segmenter | OnnxFile] = {DENSE: Segmenter(shape, dense(shape)).eval(), **models}
    costs = {name: gflops(shape, model.recipe, size) for name, model in timed.items()}
    results = []
    for runtime in _useful(runtimes, models):
        ready, precisions = dict[str, Bind](), dict[str, str]()
        for name, model in timed.items():
            precisions[name] = "fp32" if runtime == "onnxruntime" else _DTYPES.get(dtype, str(dtype))
            if isinstance(model, OnnxFile):
                if runtime == "onnxruntime":
                    ready[name], precisions[name] = session_runs(model.session), model.precision
            elif runtime == "onnxruntime":
                say(f"exporting {name} for onnxruntime")
                precision = model.recipe.precision
                source = exported(model, size, [precision])[precision]
                ready[name], precisions[name] = graph_runs(source, device, torch.get_num_threads()), precision
            elif model.recipe.precision == "fp32":
                ready[name] = torch_runs(model, device, dtype, compiled)
        for batch in batches:
            action = "compiling and timing" if compiled and runtime == "torch" else "timing"
            say(f"{runtime}: {action} {len(ready)} models with batches of {batch}")
            images = torch.randn(batch, 3, *size).to(device)
            with torch.inference_mode():
                runs = {name: bind(images) for name, bind in ready.items()}
                times = median_seconds(runs, device, rounds, _WARM_UP, own_clock(device, torch.get_num_threads()))
            for name, seconds in times.items():
                saved, gained = costs[DENSE] / costs[name], times[DENSE] / seconds
                figures = costs[name], 1e3 * seconds, batch / seconds, saved, gained
                results.append(Speed(name, runtime, batch, *figures, precisions[name]))
    return results


def _common(models: Mapping[str, Segmenter | OnnxFile]) -> tuple[ModelShape, Size]:
    """Return the dense shape and the image size of all models; raise a UserError if they differ."""
    shapes = {model.shape for model in models.values()}
    if len(shapes) != 1:
        raise UserError("speed: the models come from dense models of different shapes; time them one by one")
    for name, model in models.items():
        if model.recipe.adaptive:
            raise UserError(f"speed: {name} merges adaptively; its time depends on the image")
    shape = shapes.pop()
    sizes = {model.size if isinstance(model, OnnxFile) else shape.image for model in models.values()}
    if len(sizes) != 1:
        texts = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise UserError(f"speed: the models take images of {texts} pixels; time them one by one")
    return shape, sizes.pop()


def _useful(runtimes: Sequence[str], models: Mapping[str, Segmenter | OnnxFile]) -> list[str]:
    """Return the runtimes that run any of the models; raise a UserError for a model that none of them runs."""
    in_torch = {
        name: isinstance(model, Segmenter) and model.recipe.precision == "fp32" for name, model in models.items()
    }
    other = next((name for name, runs in in_torch.items() if not runs), None)
    if other is not None and "onnxruntime" not in runtimes:
        raise UserError(f"--runtime {','.join(runtimes)}: {other} runs in onnxruntime alone")
    return [runtime for runtime in runtimes if any(in_torch.values()) or runtime == "onnxruntime"]
