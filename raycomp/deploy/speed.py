"""Speed as deployed: latency and throughput beside GFLOPs, by torch and by onnxruntime, against the dense model."""

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
"""Images (B, 3, H, W) to a run of the model on them."""


@dataclass(frozen=True)
class Speed:
    """One model in one runtime at one batch."""

    model: str
    runtime: str
    batch: int
    gflops: float
    latency_ms: float
    """Median of a whole batch."""
    images_per_second: float
    saved: float
    """Dense GFLOPs over its own."""
    gained: float
    """Dense time over its own, of runs that took turns."""

    @property
    def ratio(self) -> float:
        """What share of the FLOPs saved became speed."""
        return self.gained / self.saved

    @property
    def in_vain(self) -> bool:
        """Whether it saves FLOPs but no time."""
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
    """Time models of one dense shape beside that shape's dense model, whose weights are of no matter.

    Images lie on the device and logits stay there, in both runtimes: no copy to or from the host is timed.

    Args:
        say: is told what is being done; graphs of onnxruntime take seconds each to make.
        compiled: torch runs the models, the dense one too, by torch.compile, each batch with static shapes.

    Raises:
        UserError: for models of different shapes, merging that adapts to the image, a precision or device that
            onnxruntime does not run in, or models that torch cannot compile here.
    """
    shapes = {model.shape for model in models.values()}
    if len(shapes) != 1:
        raise UserError("speed: the models come from dense models of different shapes; time them one by one")
    for name, model in models.items():
        if model.recipe.adaptive:
            raise UserError(f"speed: {name} merges by the image; its time depends on it")
    if "onnxruntime" in runtimes:
        _check_onnxruntime(device, dtype)
    shape = shapes.pop()
    whole = {DENSE: Segmenter(shape, dense(shape)).eval(), **models}
    costs = {name: gflops(shape, model.recipe) for name, model in whole.items()}
    found = []
    for runtime in runtimes:
        ready = dict[str, Bind]()
        for name, model in whole.items():
            if runtime == "onnxruntime":
                say(f"exporting model {len(ready) + 1} of {len(whole)} for onnxruntime")
                ready[name] = _onnxruntime(model, device)
            else:
                ready[name] = _torch(model, device, dtype, compiled)
        for batch in batches:
            doing = "compiling and timing" if compiled and runtime == "torch" else "timing"
            say(f"{runtime}: {doing} {len(whole)} models with batches of {batch}")
            images = torch.randn(batch, 3, *shape.image).to(device)
            with torch.inference_mode():
                runs = {name: bind(images) for name, bind in ready.items()}
                times = median_seconds(runs, device, rounds, _WARM_UP)
            for name in whole:
                found.append(
                    Speed(
                        model=name,
                        runtime=runtime,
                        batch=batch,
                        gflops=costs[name],
                        latency_ms=1e3 * times[name],
                        images_per_second=batch / times[name],
                        saved=costs[DENSE] / costs[name],
                        gained=times[DENSE] / times[name],
                    )
                )
    return found


def _torch(model: Segmenter, device: torch.device, dtype: torch.dtype, compiled: bool) -> Bind:
    there = model.to(device, dtype)

    def bind(images: Tensor) -> Callable[[], object]:
        seen = images.to(dtype)
        return _compiled(there, seen) if compiled else partial(there, seen)

    return bind


def _compiled(model: Segmenter, images: Tensor) -> Callable[[], object]:
    """A run of a model on images, compiled.

    torch keeps what it compiles by the code object, a few at most, and looks through them in each call: models that
    share one would slow each other down.
    """

    def forward(x: Tensor) -> Tensor:
        return model(x)

    own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    run = partial(torch.compile(own, fullgraph=True, dynamic=False), images)
    try:
        run()
    except RuntimeError as error:  # no compiler, or one that fails
        raise UserError(f"--compile: torch.compile fails: {first_line(error)}") from None
    return run


def _check_onnxruntime(device: torch.device, dtype: torch.dtype) -> None:
    if dtype != torch.float32:
        raise UserError(f"--dtype {str(dtype).removeprefix('torch.')}: onnxruntime is timed in float32")
    from raycomp.deploy.onnx import check_device

    check_device(device)


def _onnxruntime(model: Segmenter, device: torch.device) -> Bind:
    from raycomp.deploy.onnx import graph, open_session, run_bound

    traced = graph(model, torch.zeros(1, 3, *model.shape.image))
    session = open_session(traced.SerializeToString(), device, torch.get_num_threads())
    return lambda images: partial(run_bound, session, images)
