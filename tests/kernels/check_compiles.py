# SPDX-License-Identifier: Apache-2.0
"""Every launch compiles to machine code of an H100 (sm_90), without a GPU; `test_kernels` runs this file.

The interpreter takes what the compiler refuses, so the launches that the wrappers make are recorded and compiled.
"""

import re
from typing import Any

import pytest
import torch
from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from raycomp.kernels import attention, count, groups, pairs, upsample

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""A kernel, what it is given, and its options."""


@pytest.fixture
def launches(monkeypatch) -> list[Launch]:
    """What is launched is kept here and not run."""
    made: list[Launch] = []

    def keep(kernel, *arguments, grid, warmup, **options):
        made.append((kernel, arguments, options))

    monkeypatch.setattr(JITFunction, "run", keep)
    return made


def machine(launch: Launch, aligned: bool) -> dict[str, Any]:
    """Compile a launch as Triton specialises it: ones are constants, and multiples of 16 are known as such."""
    kernel, arguments, options = launch
    signature, constants, hints = {}, {}, {}
    for parameter, value in zip(kernel.params, arguments, strict=True):
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1 and specialised):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name], multiple = TYPES[value.dtype], aligned
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            multiple = specialised and value % 16 == 0
        if multiple:
            hints[(parameter.num,)] = [["tt.divisibility", 16]]
    return compiled(ASTSource(kernel, signature, constants, hints), target=TARGET, options=options).asm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("tokens", "heads", "width", "prefix"), [(1026, 12, 64, 2), (257, 3, 20, 1)])
def test_the_merge_step(launches, dtype, tokens, heads, width, prefix):
    embed, r = heads * width, 95
    keys = torch.empty(2, tokens, heads, width, dtype=dtype).transpose(1, 2)
    best, partner = pairs.best_partners(keys, prefix)
    pairs.best_partners(torch.empty(2, tokens, embed, dtype=dtype), prefix)
    index = pairs.pair_positions(best, partner, r, tokens, prefix)
    groups.merge(torch.empty(2, tokens, embed, dtype=dtype), torch.empty(2, tokens), index, tokens - r)
    names = [kernel.fn.__name__ for kernel, _, _ in launches]
    assert names == ["_unit", "_best", "_unit", "_best", "_positions", "_members", "_means"]
    for launch in launches:
        assert machine(launch, aligned=width % 16 == 0)["cubin"]


@pytest.mark.parametrize("channels", [20, 40, 64, 768])
def test_best_partners_are_found_by_tensor_cores(launches, channels):
    for images, instruction in ((1, "mma.sync"), (32, "wgmma.mma_async")):
        launches.clear()
        pairs.best_partners(torch.empty(images, 1026, channels), 2)
        _, best = launches
        products = re.findall(rf"{instruction}\S*tf32", machine(best, aligned=True)["ptx"])
        assert products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("patch", [8, 14, 16, 32])
def test_labels(launches, dtype, patch):
    upsample.labels(torch.empty(2, 12, 150, dtype=dtype).transpose(1, 2).unflatten(2, (3, 4)), patch, (3 * patch, 60))
    upsample.labels(torch.empty(2, 150, 3, 4, dtype=dtype), patch, (3 * patch, 60))
    assert len(launches) == 2
    for launch in launches:
        assert machine(launch, aligned=True)["cubin"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("heads", "qk", "v"), [(12, 64, 64), (3, 40, 56), (4, 72, 24), (1, 128, 128), (3, 20, 12)])
def test_attention(launches, dtype, biased, heads, qk, v):
    """Products run on Hopper's tensor cores, and a thread loads 16 bytes at once where widths allow it."""
    for images in (1, 32):
        qkv = torch.empty(images, 1026, heads * (2 * qk + v), dtype=dtype)
        query, key, value = (
            part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.split([heads * qk] * 2 + [heads * v], 2)
        )
        attention.attend(query, key, value, torch.empty(images, 1026) if biased else None, 0.125)
    assert len(launches) == 2
    aligned = (qk | v) % 8 == 0
    for launch in launches:
        made = machine(launch, aligned=aligned)
        assert made["cubin"]
        assert "wgmma.mma_async" in made["ptx"]
        assert ("cp.async.cg.shared.global" in made["ptx"]) == aligned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("patch", "corners", "windows"),
    [
        (14, ((0, 0), (0, 23)), [1, 2]),
        (16, ((0, 0), (0, 23), (5, 0), (5, 23)), [2, 4]),
        (8, ((0, 0), (8, 0), (16, 0)), [1, 2, 3]),
    ],
)
def test_labels_of_windows(launches, dtype, patch, corners, windows):
    scores = torch.empty(2, len(corners), 12, 150, dtype=dtype).transpose(2, 3).unflatten(3, (3, 4))
    size = tuple(side * patch + max(corner[axis] for corner in corners) for axis, side in ((0, 3), (1, 4)))
    upsample.labels_of_windows(scores, patch, (3 * patch, 4 * patch), corners, size)
    assert [arguments[-4] for _, arguments, _ in launches] == windows  # on a tile
    for launch in launches:
        assert machine(launch, aligned=True)["cubin"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_counts(launches, dtype):
    count.confusions(torch.empty(2, 31, 37, dtype=torch.uint8), torch.empty(2, 31, 37, dtype=dtype), 150)
    assert len(launches) == 1
    assert machine(launches[0], aligned=False)["cubin"]
