# SPDX-License-Identifier: Apache-2.0
"""What a person reads is one line, whatever names and values are in it."""

import logging
import pickle

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from raycomp.config import parsed
from raycomp.data.images import read_image
from raycomp.deploy.predict import open_model
from raycomp.errors import UserError, first_line, last_line, logger, show_log, shown
from raycomp.models.tensors import unpickled


def test_line_breaks_and_control_characters_are_escaped():
    assert str(UserError("a\nb\r\x1b[31m\x85\u2028.yaml: 図 ±")) == "a\\nb\\r\\x1b[31m\\x85\\u2028.yaml: 図 ±"
    assert str(UserError("\udcff")) == "\udcff"  # a byte of a name that is no text: the command line prints it


def test_an_error_of_a_worker_comes_back_as_it_was():
    error = UserError("a\nb")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == str(UserError(str(error)))


def test_a_value_is_cut_where_it_is_long():
    assert shown("a\n") == "'a\\n'"
    assert shown("a" * 1000) == f"'{'a' * 199}..."
    assert shown(16**5000) == "a number of thousands of digits"


@pytest.mark.parametrize(
    ("error", "first", "last"),
    [
        (ValueError("one"), "one", "one"),
        (ValueError("one\ntwo\r\nthree\n"), "one", "three"),
        (ValueError(), "ValueError", "ValueError"),
        (OSError(28, "No space left"), "[Errno 28] No space left", "[Errno 28] No space left"),
    ],
)
def test_one_line_stands_for_an_error(error, first, last):
    assert (first_line(error), last_line(error)) == (first, last)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.yaml", lambda path: parsed("2001-99-99")),
        ("a.png", read_image),
        ("a.pth", unpickled),
        ("a.pt2", lambda path: open_model(path, torch.device("cpu"))),
    ],
)
def test_what_a_library_raises_is_in_the_log_with_its_traceback(name, read, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "raycomp")
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(10, 100, 3)).save(tmp_path / "whole.png")
    torch.save(torch.ones(999), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.png" if name.endswith("png") else tmp_path / "whole.pth").read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises((UserError, yaml.YAMLError)):
        read(tmp_path / name)
    (record,) = (record for record in caplog.records if record.name == "raycomp")
    assert record.levelno == logging.DEBUG
    assert record.exc_info is not None
    assert not isinstance(record.exc_info[1], UserError)


def test_no_password_is_in_the_log(capsys, monkeypatch):
    monkeypatch.setenv("RAYCOMP_LOG", "info")
    monkeypatch.setattr(logger, "handlers", [])
    show_log()
    try:
        raise ConnectionError("postgresql://me:secret@host/db")
    except ConnectionError:
        logger.info("at %s", "https://me:secret@host", exc_info=True)
    logger.debug("below the level")
    said = capsys.readouterr().err
    assert said.startswith("INFO test_errors: at https://me:***@host\nTraceback")
    assert said.endswith("ConnectionError: postgresql://me:***@host/db\n")
