# SPDX-License-Identifier: Apache-2.0
"""Deployed speed: latency, throughput and GFLOPs relative to the dense model, in torch and onnxruntime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType

import torch
from torch import Tensor

from raycomp.errors import UserError, first_line
from raycomp.evaluate.latency import median_seconds
from raycomp.flops import gflops
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense

DENSE = "dense"
_WARM_UP = 3

Bind = Callable[[Tensor], Callable[[], object]]
"""Binds images (B, 3, H, W) to a function that runs the model on them."""


@dataclass(frozen=True)
class Speed:
    """Speed of one model in one runtime at one batch size."""

    model: str
    runtime: str
    batch: int
    gflops: float
    latency_ms: float
    """Median time of a batch."""
    images_per_second: float
    saved: float
    """GFLOPs of the dense model divided by this model's."""
    gained: float
    """Time of the dense model divided by this model's; their runs took turns."""

    @property
    def ratio(self) -> float:
        """Share of the FLOPs reduction that became speed."""
        return self.gained / self.saved

    @property
    def in_vain(self) -> bool:
        """Whether the model saves FLOPs but no time."""
        return self.saved > 1 and self.gained <= 1


def speeds(
    models: dict[str, Segmenter],
    runtimes: Sequence[str],
    batches: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    rounds: int,
    say: Callable[[str], None] = lambda _: None,
    compiled: bool = False,
) -> list[Speed]:
    """Time models of one dense shape against a dense model with random weights.

    In both runtimes, images and logits stay on the device, so no host copies are timed.

    Args:
        say: receives progress messages; each onnxruntime graph takes seconds to build.
        compiled: use torch.compile for all models in torch, including the dense model, with static shapes per batch.

    Raises:
        UserError: if the shapes differ, merging is adaptive, onnxruntime does not support the precision or device, or
            torch cannot compile the models.
    """
    shapes = {model.shape for model in models.values()}
    if len(shapes) != 1:
        raise UserError("speed: the models come from dense models of different shapes; time them one by one")
    for name, model in models.items():
        if model.recipe.adaptive:
            raise UserError(f"speed: {name} merges adaptively; its time depends on the image")
    if "onnxruntime" in runtimes:
        if dtype != torch.float32:
            raise UserError(f"--dtype {str(dtype).removeprefix('torch.')}: onnxruntime is timed in float32")
        from raycomp.deploy.onnx import check_device

        check_device(device)
    shape = shapes.pop()
    timed = {DENSE: Segmenter(shape, dense(shape)).eval(), **models}
    costs = {name: gflops(shape, model.recipe) for name, model in timed.items()}
    results = []
    for runtime in runtimes:
        ready = dict[str, Bind]()
        for number, (name, model) in enumerate(timed.items(), start=1):
            if runtime == "onnxruntime":
                say(f"exporting model {number} of {len(timed)} for onnxruntime")
                ready[name] = _onnxruntime(model, device)
            else:
                ready[name] = _torch(model, device, dtype, compiled)
        for batch in batches:
            action = "compiling and timing" if compiled and runtime == "torch" else "timing"
            say(f"{runtime}: {action} {len(timed)} models with batches of {batch}")
            images = torch.randn(batch, 3, *shape.image).to(device)
            with torch.inference_mode():
                runs = {name: bind(images) for name, bind in ready.items()}
                times = median_seconds(runs, device, rounds, _WARM_UP)
            for name, seconds in times.items():
                saved, gained = costs[DENSE] / costs[name], times[DENSE] / seconds
                results.append(Speed(name, runtime, batch, costs[name], 1e3 * seconds, batch / seconds, saved, gained))
    return results


def _torch(model: Segmenter, device: torch.device, dtype: torch.dtype, compiled: bool) -> Bind:
    model = model.to(device, dtype)
    run: Callable[..., Callable[[], object]] = _compiled if compiled else partial
    return lambda images: run(model, images.to(dtype))


def _compiled(model: Segmenter, images: Tensor) -> Callable[[], object]:
    """Compile a run of a model on images.

    torch caches a few compilations per code object and searches them in each call, so models that share a code object
    would slow each other down.
    """

    def forward(x: Tensor) -> Tensor:
        return model(x)

    copy = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    run = partial(torch.compile(copy, fullgraph=True, dynamic=False), images)
    try:
        run()
    except RuntimeError as error:  # no compiler, or one that fails
        raise UserError(f"--compile: torch.compile fails: {first_line(error)}") from None
    return run


def _onnxruntime(model: Segmenter, device: torch.device) -> Bind:
    from raycomp.deploy.onnx import graph, open_session, run_bound

    traced = graph(model, torch.zeros(1, 3, *model.shape.image))
    session = open_session(traced.SerializeToString(), device, torch.get_num_threads())
    return lambda images: partial(run_bound, session, images)
