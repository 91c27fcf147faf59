from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from lepton_pipe import errors
from lepton_pipe.errors import ExitStatus, LeptonError, SpecError

ALL = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, LeptonError)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError, 1),
        (errors.InputError, 1),
        (errors.SpecError, 1),
        (errors.RunError, 2),
        (errors.KernelError, 2),
        (errors.CastError, 2),
        (errors.DamagedError, 2),
        (errors.RefusedError, 4),
        (errors.MemoryRefusedError, 4),
        (errors.OutputExistsError, 4),
        (errors.LockedError, 4),
    ],
)
def test_exit_statuses_are_stable(error, status):
    assert int(error.exit_status) == status


def test_the_signals_have_the_shells_own_statuses():
    assert (ExitStatus.COMPLETE, ExitStatus.INTERRUPTED, ExitStatus.TERMINATED) == (0, 130, 143)


@pytest.mark.parametrize("error", ALL, ids=lambda e: e.__name__)
def test_errors_come_back_from_a_worker_as_they_were(error):
    made = error("mine", ["one", "two"]) if error is SpecError else error("what happened")
    for again in (pickle.loads(pickle.dumps(made)), copy.copy(made)):  # noqa: S301
        assert type(again) is error
        assert str(again) == str(made)
        assert again.exit_status == made.exit_status


def test_one_problem_stands_on_the_first_line_and_several_below_it():
    assert str(SpecError("mine", ["only"])) == "mine: only"
    assert str(SpecError("mine", ["one", "two"])) == "mine: 2 problems\n  one\n  two"


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("s3://me:secret@host/a.zarr is gone", "s3://host/a.zarr is gone"),
        ("('https://host/a?sig=secret', 2)", "('https://host/a', 2)"),
        ("https://me:secret@host/a?sig=secret#secret, then", "https://host/a, then"),
        ("https://me:sec?ret@host/a", "https://host/a"),
        ("a@b and s3://bucket/a@2 stay", "a@b and s3://bucket/a@2 stay"),
    ],
)
def test_messages_tell_no_passwords_and_signatures(told, shown):
    assert str(LeptonError(told)) == shown
