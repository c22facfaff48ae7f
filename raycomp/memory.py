"""How a process handles memory that it frees."""

import atexit
import ctypes
import gc
import os
import platform
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed_memory() -> None:
    """Keep freed memory for the next use instead of giving it back to the system.

    glibc returns every buffer of 32 MiB or more at once, and its pages are faulted in anew at the next use: for the
    activations of large models on a CPU that can cost more than what is computed on them. The peak is the same.
    No effect where the C library is another.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)


def leave_memory_to_the_system() -> None:
    """Let Python end at once: freeing torch's modules one by one takes seconds.

    Triton, where torch has loaded it, would list every object that is left on stderr. That closes before.
    """
    gc.freeze()
    if "triton" in sys.modules:
        atexit.register(_close_stderr)


def _close_stderr() -> None:
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
