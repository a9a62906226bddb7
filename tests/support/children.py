"""Child processes that end with the test run, however that ends."""

import os
import signal
import sys
from typing import Final

# 1 is PR_SET_PDEATHSIG, which outlives exec; a parent that ended before the call is noticed by
# comparing. A test run that is killed by SIGKILL runs no clean-up: the kernel does it for us.
_TRAMPOLINE: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]))
if os.getppid() != int(sys.argv[2]):
    sys.exit("the tests ended before this began")
os.execvp(sys.argv[3], sys.argv[3:])
"""


def ending_with_us(command: list[str], number: int = signal.SIGKILL) -> list[str]:
    """Return `command` so that signal `number` reaches it when the calling process ends."""
    return [sys.executable, "-c", _TRAMPOLINE, str(int(number)), str(os.getpid()), *command]
