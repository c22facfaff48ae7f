"""How a process handles memory that it frees."""

import ctypes
import platform

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
