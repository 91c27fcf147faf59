"""How a process ended, in words."""

from __future__ import annotations

import signal


def how_ended(exitcode: int) -> str:
    """Return how a process ended.

    Parameters
    ----------
    exitcode
        Its exit status, or less than 0: the number of the signal that killed it.
    """
    if exitcode >= 0:
        return f"exit status {exitcode}"
    try:
        return f"killed by signal {-exitcode}, {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"killed by signal {-exitcode}"
