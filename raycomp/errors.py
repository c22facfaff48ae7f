"""What a person reads of an error: one line with what is wrong, where and the nearest right thing; the log has more."""

import difflib
import logging
import os
import re
import unicodedata
from collections.abc import Iterable

_BREAKING = ("Cc", "Zl", "Zp")  # Unicode's categories of control characters and line breaks
_LONGEST_VALUE = 200  # characters
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+@")
_LOG = "RAYCOMP_LOG"

logger = logging.getLogger("raycomp")
"""Has, at level debug, the traceback of every error that ends as one line."""


class UserError(Exception):
    """Bad input. Its text is one line; the command line prints it and exits with code 2."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def one_line(text: str) -> str:
    """A text with its control characters and line breaks, of a file's name for example, escaped."""
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _BREAKING else sign for sign in text
    )


def shown(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def first_line(error: BaseException | str) -> str:
    """The first line of an error of a library; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """The last line of an error of Ray, which names the cause; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[-1]


def without_password(text: str) -> str:
    """The text with the passwords of its URIs left out, for all that people and files get to see."""
    return _PASSWORD.sub(r"\1:***@", text)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_password(super().format(record))


def show_log() -> None:
    """Write the log of this process to stderr, from the level on that RAYCOMP_LOG names.

    Raises:
        UserError: for an unknown level.
    """
    level = os.environ.get(_LOG, "warning").upper()
    if level not in (known := logging.getLevelNamesMapping()):
        raise UserError(f"{_LOG} is {level.lower()!r}: {nearest(level.lower(), map(str.lower, known))}")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(levelname)s %(module)s: %(message)s"))
        logger.addHandler(handler)


def nearest(value: object, allowed: Iterable[object]) -> str:
    """Say which allowed value was probably meant, or list them all when none is close."""
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(names)}"
