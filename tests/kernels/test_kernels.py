# SPDX-License-Identifier: Apache-2.0
"""The kernels, in processes of their own: on a CUDA device, else by Triton's interpreter; and who may use them.

The interpreter has to be chosen before Triton is first imported, which torch.compile does too.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from raycomp import kernels

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton, which is on PyPI for Linux only")


def run(check: str, scratch: Path, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / check)]
    settings = {"TRITON_CACHE_DIR": str(scratch), **environment}
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        "check_attention.py",
        "check_pairs.py",
        "check_groups.py",
        "check_upsample.py",
        "check_windows.py",
        "check_count.py",
        "check_model.py",
    ],
)
def test_the_kernels_answer_like_torch(check, tmp_path):
    run(check, tmp_path, TRITON_INTERPRET="0" if torch.cuda.is_available() else "1")


@needs_triton
@pytest.mark.slow
def test_the_kernels_compile_for_hopper(tmp_path):
    run("check_compiles.py", tmp_path, TRITON_INTERPRET="0")


class OnGpu(torch.Tensor):
    is_cuda = True


@pytest.fixture
def on_gpu(monkeypatch) -> torch.Tensor:
    """A tensor that says it is a plain one on a GPU, where Triton is there."""
    monkeypatch.setattr(kernels, "Tensor", OnGpu)
    monkeypatch.setattr(kernels, "available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", torch.zeros(2).get_device)
    return torch.zeros(2).as_subclass(OnGpu)


def test_the_kernels_are_for_cuda_and_what_needs_no_gradient(on_gpu, monkeypatch):
    assert kernels.usable(on_gpu)
    assert kernels.usable(on_gpu.bfloat16(), on_gpu.half(), on_gpu.byte())
    assert not kernels.usable(on_gpu.double())
    assert not kernels.usable(on_gpu, torch.zeros(2))
    with monkeypatch.context() as other:
        other.setattr(torch.cuda, "current_device", lambda: 1)
        assert not kernels.usable(on_gpu)
    on_gpu.requires_grad_()
    assert not kernels.usable(on_gpu)
    with torch.no_grad():
        assert kernels.usable(on_gpu)
    monkeypatch.setattr(kernels, "available", lambda: False)
    assert not kernels.usable(torch.zeros(2).as_subclass(OnGpu))


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run here")
def test_where_no_kernel_runs_the_reason_is_said():
    with pytest.warns(UserWarning, match="no Triton kernels, using plain torch: "):
        assert not kernels.available.__wrapped__()


def test_a_full_device_says_nothing_of_triton(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "ones", full)
    monkeypatch.setattr(kernels, "_triton", lambda: (3, 6))
    monkeypatch.setitem(sys.modules, "raycomp.kernels.groups", sys)  # what imports Triton
    with pytest.raises(torch.OutOfMemoryError):
        kernels.available.__wrapped__()


def test_graphs_that_are_traced_have_no_kernels(on_gpu):
    answers = []

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answers.append(kernels.usable(on_gpu))
            return x + 1

    model, x = Model(), torch.zeros(2)
    with torch.no_grad():
        model(x)
        torch.export.export(model, (x,), strict=False)
        torch.jit.trace(model, x, check_trace=False)
    assert answers == [True, False, False]


def test_what_stands_in_for_a_cuda_tensor_is_not_one(monkeypatch):
    monkeypatch.setattr(kernels, "available", lambda: True)
    with FakeTensorMode():
        fake = torch.empty(2, device="cuda")
    assert fake.is_cuda
    assert not kernels.usable(fake)
