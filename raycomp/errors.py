"""The one exception a person sees: what is wrong, where, and the nearest right thing."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. Its text is one line; the command line prints it and exits with code 2."""


def first_line(error: Exception) -> str:
    """What an error of a library says, on one line; its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def nearest(value: object, allowed: Iterable[object]) -> str:
    """Say which allowed value was probably meant, or list them all when none is close."""
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(value), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(names)}"
