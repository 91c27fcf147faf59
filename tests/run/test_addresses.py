"""Which schedulers are refused: those that others could listen to."""

from __future__ import annotations

import pytest

from lepton_pipe.errors import RefusedError, UsageError
from lepton_pipe.run.addresses import refuse_address

OWN = ("tcp://127.0.0.1:8786", "127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:8786")
OPEN = ("tcp://192.0.2.7:8786", "192.0.2.7:8786", "ws://192.0.2.7:80", "tcp://0.0.0.0:1", "tcp://")
ODD = ("inproc://192.0.2.7/1", "http://192.0.2.7", "file:///tmp/x")


@pytest.mark.parametrize("address", [*OWN, "tls://192.0.2.7:8786", "wss://192.0.2.7"])
def test_loopback_and_encrypted_addresses_are_taken(address):
    refuse_address(address)


@pytest.mark.parametrize("address", OPEN)
def test_what_others_could_listen_to_is_refused_unless_the_user_says_so(address):
    with pytest.raises(RefusedError, match="--insecure"):
        refuse_address(address)
    refuse_address(address, insecure=True)


@pytest.mark.parametrize("address", ODD)
def test_other_kinds_are_not_known(address):
    with pytest.raises(UsageError, match="is not known"):
        refuse_address(address, insecure=True)
