# SPDX-License-Identifier: Apache-2.0
"""A card's name, TF32 off for a while, what a process sets, and what is told of errors."""

import pytest
import torch

from raycomp.devices import device_name, exact_float32, is_out_of_memory, prepare_device, responds


def test_a_card_goes_by_its_name(monkeypatch):
    names = {torch.device("cuda"): "NVIDIA H100", torch.device("cuda:1"): "NVIDIA L4"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert [device_name(torch.device(d)) for d in ("cpu", "cuda", "cuda:1")] == ["cpu", "NVIDIA H100", "NVIDIA L4"]


def tf32() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def set_tf32(matmul: bool, cudnn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@pytest.fixture
def restored():
    before = tf32()
    yield
    set_tf32(*before)


@pytest.mark.parametrize("before", [(False, True), (True, False), (True, True)])
def test_tf32_is_off_inside_and_as_before_after(restored, before):
    set_tf32(*before)
    with exact_float32():
        assert tf32() == (False, False)
    assert tf32() == before
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert tf32() == before


def test_attention_by_cudnn_is_off_on_a_card_alone():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        prepare_device(torch.device("cpu"))
        assert torch.backends.cuda.cudnn_sdp_enabled()
        prepare_device(torch.device("cuda"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            False,
        ),  # of the machine, not a card
        (MemoryError(), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_which_errors_say_that_a_card_is_full(error, full):
    assert is_out_of_memory(error) == full


def test_a_device_that_computes_responds_and_one_that_raises_does_not(monkeypatch):
    assert responds(torch.device("cpu"))

    def sticky(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "ones", sticky)
    assert not responds(torch.device("cpu"))
