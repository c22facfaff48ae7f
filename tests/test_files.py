# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, and a full disk is one line."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest

from raycomp.errors import UserError
from raycomp.files import check_outputs, write_bytes, written

FULL = """
import resource, sys
from pathlib import Path
import torch
from raycomp.errors import UserError
from raycomp.files import written
from raycomp.models import checkpoints
from raycomp.models.segmenter import Segmenter
from raycomp.recipe import dense
from tests.conftest import TINY

model = Segmenter(TINY, dense(TINY))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as if the disk were full after 1000 bytes
for name in ("model.safetensors", "model.pt", "model.txt"):
    path = Path(sys.argv[1]) / name
    try:
        if name.endswith("safetensors"):
            checkpoints.save(model, path)
        else:
            with written(path) as temporary:
                torch.save(model.state_dict(), temporary) if name.endswith("pt") else temporary.write_text("x" * 2000)
    except UserError as error:
        print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    for name in ("model.safetensors", "model.pt", "model.txt"):
        (tmp_path / name).write_text("before")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    for line, name in zip(lines, ("model.safetensors", "model.pt", "model.txt"), strict=True):
        assert line.startswith(f"{tmp_path / name}: not written: ")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(
        ("model.safetensors", "model.pt", "model.txt"), "before"
    )


def test_what_a_block_raises_of_its_own_goes_through(tmp_path):
    with pytest.raises(ZeroDivisionError), written(tmp_path / "a.txt") as temporary:
        temporary.write_text(str(1 / 0))
    with pytest.raises(UserError, match=r"a\.txt: not written"), written(tmp_path / "none" / "a.txt") as temporary:
        pass
    assert list(tmp_path.rglob("*.txt")) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_file_is_replaced_once_the_disk_has_the_new_one(fails, tmp_path, monkeypatch):
    """Where the disk tells of an error only then, the file stays as it was and nothing is left beside it."""
    (tmp_path / "row.parquet").write_text("before")
    rows = []

    def fsync(_):
        rows.append([path.read_text() for path in tmp_path.glob("*.parquet")])
        if fails:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error") if fails else nullcontext():
        write_bytes(tmp_path / "row.parquet", b"after")
    assert rows == [["before"]]  # no reader takes the temporary file for a row
    with (
        pytest.raises(UserError, match=r"model\.pt: not written: .*Input/output") if fails else nullcontext(),
        written(tmp_path / "model.pt") as temporary,
    ):
        temporary.write_text("weights")
    kept = {"row.parquet": "before"} if fails else {"row.parquet": "after", "model.pt": "weights"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == kept


def test_a_file_that_is_read_is_not_overwritten(tmp_path):
    (tmp_path / "space.yaml").touch()
    (tmp_path / "link.yaml").symlink_to(tmp_path / "space.yaml")
    check_outputs("--out x", [tmp_path / "x.safetensors"], [tmp_path / "space.yaml", None])
    for name in ("space.yaml", "link.yaml", "../" + tmp_path.name + "/space.yaml"):
        with pytest.raises(UserError, match=r"^--out x: would overwrite .*\.yaml, which this command reads"):
            check_outputs("--out x", [tmp_path / name], [tmp_path / "space.yaml"])
    with pytest.raises(UserError, match=r"^--out x: .* is a folder; expected a file"):
        check_outputs("--out x", [tmp_path], [])
