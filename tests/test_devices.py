"""A card's name, and TF32 off for a while."""

import pytest
import torch

from raycomp.devices import device_name, exact_float32


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
