"""A process that ends with the one that started it, whatever ends that one (``PR_SET_PDEATHSIG``).

It is tied to the *thread* that started the process, which therefore has to wait until the process is gone.
"""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
# Loaded here, because between fork and exec only a call of something ready is safe while other threads exist.
_libc = ctypes.CDLL(None, use_errno=True)


def dying_with_parent() -> Callable[[], None]:
    """Return what a process is to call between fork and exec (``preexec_fn``)."""
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent died before the call above took effect
            os._exit(1)

    return die_with_parent
