# SPDX-License-Identifier: Apache-2.0
"""Control how a process handles freed memory."""

import atexit
import ctypes
import gc
import os
import platform
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed_memory() -> None:
    """Keep freed memory for reuse instead of returning it to the system. It has no effect without glibc.

    glibc returns every buffer of 32 MiB or more immediately, and its pages are faulted in again at the next use. For
    activations of large models on a CPU, this can cost more than the computation. Peak memory is the same.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)


def leave_memory_to_the_system() -> None:
    """Let Python exit immediately, as freeing torch's modules one by one takes seconds.

    Triton, if loaded, would list every remaining object on stderr, so close stderr first.
    """
    gc.freeze()
    if "triton" in sys.modules:
        atexit.register(_close_stderr)


def _close_stderr() -> None:
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
