"""Signals that end a run: held back where they must be, and never lost."""

from __future__ import annotations

import gc
import os
import signal
import threading

import pytest

from lepton_pipe.run.interrupts import interrupts_kept, raise_lost_interrupt, signals_held


class Interrupting:
    """Sends a signal to this process as it is collected."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # the handler runs here, where nothing can be raised
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finalizer_swallows_is_raised_at_the_next_look():
    with interrupts_kept():
        Interrupting(signal.SIGINT)
        gc.collect()
        with pytest.raises(KeyboardInterrupt):
            raise_lost_interrupt()
    raise_lost_interrupt()  # it is over


class Ended(BaseException):
    pass


def test_the_handler_that_was_there_is_the_one_that_raises_and_stays():
    def end(_number, _frame):
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        with interrupts_kept(), pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts_kept():
            signal.raise_signal(signal.SIGHUP)
            raise_lost_interrupt()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_held_back_and_dropped_is_not_raised_later():
    with interrupts_kept():
        with signals_held(deliver=False):
            signal.raise_signal(signal.SIGINT)
        raise_lost_interrupt()


def test_a_signal_held_back_arrives_at_the_end():
    with interrupts_kept(), pytest.raises(KeyboardInterrupt), signals_held():
        signal.raise_signal(signal.SIGINT)


def test_other_threads_are_let_alone():
    failed = []

    def run():
        try:
            with interrupts_kept():
                raise_lost_interrupt()
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_look_without_an_interrupt_does_nothing():
    raise_lost_interrupt()
    with interrupts_kept():
        raise_lost_interrupt()
