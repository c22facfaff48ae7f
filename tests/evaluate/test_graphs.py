# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: the order of their steps with a pretend one, and the answers of a real one."""

import gc
import weakref
from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch

from raycomp.compress.apply import compress
from raycomp.evaluate.graphs import Replayed, graphed
from raycomp.merging import ToMe
from raycomp.recipe import dense
from tests.conftest import TINY, seeded_images


class OnGpu(torch.Tensor):
    is_cuda = True


class Cuda:
    """What torch.cuda offers for graphs: a capture keeps the steps, and a replay does them again in place."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.fails = False
        self.calls = 0
        self.last_graph: weakref.ref[object]

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """What is captured: twice the input, in a buffer of its own."""
        self.calls += 1
        self.events.append("run")
        if self.fails and "capture" in self.events:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.last_input, self.last_output = x, 2 * x
        return self.last_output

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda, events = self, self.events

        class Stream:
            def __init__(self, name: str = "side") -> None:
                self.name = name

            def wait_stream(self, other: "Stream") -> None:
                events.append(f"{self.name} waits for {other.name}")

        class Graph:
            input: torch.Tensor
            output: torch.Tensor

            def replay(self) -> None:
                events.append("replay")
                self.output.copy_(2 * self.input)

        class Capture:
            def __init__(self, graph: Graph, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                self.graph, cuda.last_graph = graph, weakref.ref(graph)

            def __enter__(self) -> None:
                events.append("capture")

            def __exit__(self, *_: object) -> None:
                self.graph.input, self.graph.output = cuda.last_input, cuda.last_output

        def on_stream(stream: Stream) -> nullcontext[None]:
            events.append(f"on {stream.name}")
            return nullcontext()

        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", on_stream)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", Capture)


@pytest.fixture
def cuda(monkeypatch) -> Cuda:
    pretended = Cuda()
    pretended.install(monkeypatch)
    return pretended


def on_gpu(*values: float) -> torch.Tensor:
    return torch.tensor(values).as_subclass(OnGpu)


WARM_UP = ["side waits for main", "on side", "run", "main waits for side"]


def test_a_graph_is_warmed_up_captured_once_and_replayed(cuda):
    example = on_gpu(1, 2)
    run = graphed(cuda.run, example)
    assert cuda.events == [*WARM_UP, "capture", "run"]
    first = run(on_gpu(3, 4))
    assert first.tolist() == [6, 8]
    second = run(on_gpu(5, 6))
    assert second.tolist() == [10, 12]
    assert first is second, "the output is one buffer"
    assert cuda.events == [*WARM_UP, "capture", "run", "replay", "replay"]
    assert example.tolist() == [1, 2], "inputs go into a buffer of the graph's own"


def test_other_inputs_run_eagerly(cuda):
    run = graphed(cuda.run, on_gpu(1, 2))
    assert run(on_gpu(1, 2, 3)).tolist() == [2, 4, 6]
    assert run(on_gpu(1, 2).double()).tolist() == [2, 4]
    assert "replay" not in cuda.events
    assert cuda.calls == 4


def test_without_a_gpu_nothing_is_captured(cuda):
    run = cuda.run
    assert graphed(run, torch.zeros(2)) is run
    assert cuda.events == []


def test_what_cannot_be_captured_runs_as_it_did(cuda):
    cuda.fails, run = True, cuda.run
    with pytest.warns(UserWarning, match="no CUDA graph.*not permitted when stream is capturing"):
        assert graphed(run, on_gpu(1, 2)) is run


def test_a_dropped_graph_leaves_no_buffer(cuda):
    run = graphed(cuda.run, on_gpu(1, 2))
    kept = cuda.last_graph, weakref.ref(cuda.last_input)
    del run, cuda.last_input
    gc.disable()  # nothing may wait for the collector of cycles
    try:
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("merges", [False, True])
def test_a_graph_answers_like_its_model(model, saliency, merges):
    merge = ToMe(ratios=(0.3, 0.2, 0.1)) if merges else None
    recipe = dense(TINY).model_copy(update={"merge": merge})
    made = compress(deepcopy(model), recipe, saliency).to("cuda")  # not the weights that other tests share
    images = [seeded_images(TINY, seed=seed).to("cuda") for seed in range(3)]
    run = graphed(made.patch_scores, images[0])
    assert run != made.patch_scores, "no graph could be captured"
    with torch.inference_mode():
        for one in images:
            torch.testing.assert_close(run(one), made.patch_scores(one), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(run(images[0][:1]), made.patch_scores(images[0][:1]))


@pytest.mark.parametrize("launching", [True, False])
def test_a_call_that_waits_for_launches_becomes_a_graph(cuda, monkeypatch, launching):
    clock = iter([0.0, 0.9 if launching else 0.3, 1.0])  # before the launches, after them, when the device is done
    monkeypatch.setattr("raycomp.evaluate.graphs.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: cuda.events.append("synchronise"))
    run = Replayed(cuda.run)
    answers = [run(torch.full((3,), float(i)).as_subclass(OnGpu)).clone() for i in range(4)]
    assert [answer.tolist() for answer in answers] == [[2.0 * i] * 3 for i in range(4)]
    assert cuda.events.count("synchronise") == 2
    assert cuda.events.count("replay") == (2 if launching else 0)


def test_calls_on_the_cpu_are_not_timed(monkeypatch):
    monkeypatch.setattr("raycomp.evaluate.graphs.time.perf_counter", lambda: pytest.fail("timed"))
    run = Replayed(lambda x: x + 1)
    assert [run(torch.tensor(i)).item() for i in range(3)] == [1, 2, 3]
