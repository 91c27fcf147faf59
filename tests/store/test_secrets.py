"""Passwords and signatures in addresses stay out of plans, records and messages."""

import pickle

import pytest

from lepton_pipe.errors import InputError, SpecError, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host/in.zarr: gone", "http://host/in.zarr: gone"),
        ("https://host/a.zarr?sig=abc%3D&se=1 is", "https://host/a.zarr is"),
        ("s3://key:secret@bucket/a.zarr", "s3://bucket/a.zarr"),
        ("https://host/a#token", "https://host/a"),
        ("a plain path?/with@signs", "a plain path?/with@signs"),
        ("mail me@example.org, see http://host/a", "mail me@example.org, see http://host/a"),
    ],
)
def test_only_secrets_are_taken_out(text, shown):
    assert without_secrets(text) == shown
    assert str(InputError(text)) == shown
    assert str(pickle.loads(pickle.dumps(InputError(text)))) == shown  # noqa: S301


def test_collected_problems_are_cleaned_too():
    assert "secret" not in str(SpecError("p", ["http://u:secret@h/x", "y"]))
