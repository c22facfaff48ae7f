"""The one exception a person sees: what is wrong, where, and the nearest right thing."""

import difflib
import unicodedata
from collections.abc import Iterable

_BREAKING = ("Cc", "Zl", "Zp")  # Unicode's categories of control characters and line breaks
_LONGEST_VALUE = 200  # characters


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


def nearest(value: object, allowed: Iterable[object]) -> str:
    """Say which allowed value was probably meant, or list them all when none is close."""
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(names)}"
