# SPDX-License-Identifier: Apache-2.0
"""What Linux tells of the processor: its name, and whether it multiplies 8-bit integers."""

import pytest

from raycomp.deploy import measured

INTEL = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) E5-2680\nflags\t\t: fpu avx avx2{}\n\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd{}\n"


@pytest.mark.parametrize(
    ("text", "slow"),
    [
        (INTEL.format(""), True),
        (INTEL.format(" avx512_vnni"), False),
        (INTEL.format(" avx_vnni amx_int8"), False),
        (ARM.format(""), True),
        (ARM.format(" asimddp"), False),
        ("", False),
        (None, False),
    ],
)
def test_a_processor_without_instructions_for_int8_is_named(tmp_path, monkeypatch, text, slow):
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(2 * text)
    monkeypatch.setattr(measured, "_CPUINFO", path)
    line = measured.slow_in_int8()
    assert bool(line) == slow
    assert not slow or line.startswith(f"int8: {measured.processor()} has no instructions for 8-bit products (")
    if text and text.startswith(INTEL[:9]) and "model name" in text:
        assert measured.processor() == "Intel(R) Xeon(R) E5-2680"
