"""Which schedulers are talked to: what is sent to them is run, and what they send is unpickled."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from lepton_pipe.errors import RefusedError, UsageError

_ENCRYPTED = ("tls", "wss")
_OPEN = ("tcp", "ws")


def refuse_address(address: str, *, insecure: bool = False) -> None:
    """Raise if others could listen, or take the scheduler's place.

    Parameters
    ----------
    address
        Of a scheduler, such as ``tls://host:8786``.
    insecure
        Whether the user vouches for the network.

    Raises
    ------
    UsageError
        When it is no address, or of a kind that is not known.
    RefusedError
        When it is on another machine, or on a network, and not encrypted.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme not in (*_ENCRYPTED, *_OPEN):
        raise UsageError(
            f"--scheduler {address}: {parts.scheme}:// is not known; write tls://host:8786, or "
            "tcp://127.0.0.1:8786 for a scheduler on this machine"
        )
    if parts.scheme in _ENCRYPTED or insecure or _is_loopback(parts.hostname or ""):
        return
    raise RefusedError(
        f"--scheduler {address} is not encrypted, and not on this machine's loopback interface: "
        "whoever shares the network could run code as you. Start the cluster with TLS and write "
        "tls://host:8786 (certificates as in Dask's configuration, distributed.comm.tls), or, in "
        "a network that you trust, add --insecure"
    )


def _is_loopback(host: str) -> bool:
    """Tell whether all that a name stands for is the loopback interface."""
    with suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, None) if host else []
        return bool(found) and all(ipaddress.ip_address(a[4][0]).is_loopback for a in found)
    return False
