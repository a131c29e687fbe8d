"""What the C library does with memory that was freed.

glibc hands the free top of its heap back to the system and takes it again, page by page, at the next step of a training.
How often depends on what happens to lie at the top, so it differs from run to run: for a small net on a CPU it may cost
nothing or a quarter of the time. A process that trains or attacks for its whole life had better keep its memory.
"""

from __future__ import annotations

import os
import sys

KEPT = 2**30  # bytes that may lie free at the top of the heap; blocks up to this size are put there
KEPT_BLOCK_OF_OLD = 2**25  # the largest such block that older versions take
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation; -> whether it was told so.

    For the command and its workers, whose process is their own; importing the package never calls it. It does nothing
    on other systems and C libraries, and nothing where the user has set a MALLOC_ variable or GLIBC_TUNABLES.
    """
    if not _on_glibc() or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    import ctypes

    libc = ctypes.CDLL(None)
    blocks = libc.mallopt(M_MMAP_THRESHOLD, KEPT) or libc.mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK_OF_OLD)
    return bool(blocks) and bool(libc.mallopt(M_TRIM_THRESHOLD, KEPT))


def _on_glibc() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):  # another C library does not know the name
        return False


__all__ = ["keep_memory"]
