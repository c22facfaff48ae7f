"""What a person reads is one line, whatever names and values are in it."""

import pickle

import pytest

from raycomp.errors import UserError, first_line, last_line, shown


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
