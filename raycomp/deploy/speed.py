"""Speed as deployed: latency and throughput beside GFLOPs, by torch and by onnxruntime, against the dense model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from raycomp.errors import UserError
from raycomp.evaluate.speed import median_seconds
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
) -> list[Speed]:
    """Time models of one dense shape beside that shape's dense model, whose weights are of no matter.

    Args:
        say: is told what is being done; graphs of onnxruntime take seconds each to make.

    Raises:
        UserError: for models of different shapes, merging that adapts to the image, or a precision that
            onnxruntime is not exported for.
    """
    shapes = {model.shape for model in models.values()}
    if len(shapes) != 1:
        raise UserError("speed: the models come from dense models of different shapes; time them one by one")
    for name, model in models.items():
        if model.recipe.adaptive:
            raise UserError(f"speed: {name} merges by the image; its time depends on it")
    shape = shapes.pop()
    whole = {DENSE: Segmenter(shape, dense(shape)).eval(), **models}
    costs = {name: gflops(shape, model.recipe) for name, model in whole.items()}
    found = []
    for runtime in runtimes:
        ready, prepare = dict[str, Bind](), _torch if runtime == "torch" else _onnxruntime
        for name, model in whole.items():
            if runtime == "onnxruntime":
                say(f"exporting model {len(ready) + 1} of {len(whole)} for onnxruntime")
            ready[name] = prepare(model, device, dtype)
        for batch in batches:
            say(f"{runtime}: timing {len(whole)} models with batches of {batch}")
            images = torch.randn(batch, 3, *shape.image)
            runs = {name: bind(images) for name, bind in ready.items()}
            with torch.inference_mode():
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


def _torch(model: Segmenter, device: torch.device, dtype: torch.dtype) -> Bind:
    there = model.to(device, dtype)
    return lambda images: partial(there, images.to(device, dtype))


def _onnxruntime(model: Segmenter, device: torch.device, dtype: torch.dtype) -> Bind:
    if dtype != torch.float32:
        raise UserError(f"--dtype {str(dtype).removeprefix('torch.')}: onnxruntime is timed in float32")
    from raycomp.deploy.onnx import graph, open_session

    traced = graph(model.to("cpu"), torch.zeros(1, 3, *model.shape.image))
    session = open_session(traced.SerializeToString(), torch.get_num_threads())
    del device  # onnxruntime takes the GPU where it has one
    return lambda images: partial(session.run, None, {"images": images.numpy()})
