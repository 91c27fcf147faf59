"""Standard streams that are closed, or lie on a disk that is full."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


def open_streams() -> None:
    """Have the three standard streams there, those that are closed with nothing behind them.

    Else the next file that is opened has the number of one, and what a library complains of is
    written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115  for the process


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """Have what anything prints in the body go to stderr, also in processes that are started."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def words_may_be_lost() -> Iterator[None]:
    """Go on where a disk cannot take what is told, so that no work is lost for words.

    Where the reader has gone, `BrokenPipeError` is raised as ever.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        return


def unwritable(stream: TextIO) -> str:
    """Return why a stream could not take all that was written to it; empty where it could.

    It is silent from then on, so that the interpreter does not fail on it at its end.
    """
    try:
        stream.flush()
    except OSError as error:
        silence(stream)
        return error.strerror or str(error)
    return ""


def silence(stream: TextIO) -> None:
    """Have what is written to a stream from now on, and what waits in it, go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
