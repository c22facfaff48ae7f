# SPDX-License-Identifier: Apache-2.0
"""User errors: one line that names the problem, the place and the nearest valid value; the log has details."""

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
"""At level debug, it has the traceback of every error that is reported as one line."""


class UserError(Exception):
    """Bad input. Its text is one line; the command line prints it and exits with code 2."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


def one_line(text: str) -> str:
    """Escape control characters and line breaks of a text, such as those of a file name."""
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) in _BREAKING else sign for sign in text
    )


def shown(value: object) -> str:
    """Return the repr of a value, truncated if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python prints
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error message, or the type of an error without one."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """Return the last line of an error message, where Ray names the cause, or the type of an error without one."""
    return (str(error).splitlines() or [type(error).__name__])[-1]


def without_password(text: str) -> str:
    """Mask the passwords of URIs in a text that is printed or stored."""
    return _PASSWORD.sub(r"\1:***@", text)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return without_password(super().format(record))


def show_log() -> None:
    """Write the log to stderr from the level that RAYCOMP_LOG names; raise a UserError for an unknown level."""
    level = os.environ.get(_LOG, "warning").upper()
    if level not in (levels := logging.getLevelNamesMapping()):
        raise UserError(f"{_LOG} is {level.lower()!r}: {nearest(level.lower(), map(str.lower, levels))}")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Formatter("%(levelname)s %(module)s: %(message)s"))
        logger.addHandler(handler)


def nearest(value: object, allowed: Iterable[object]) -> str:
    """Suggest the closest allowed value, or list all if none is close."""
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(names)}"
