"""Look at results at URLs as at local ones: how far a run is, what is damaged, what to clean."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lepton_pipe.errors import RefusedError
from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.ledger.lock import refuse_locked
from lepton_pipe.run.clean import Cleaned, clean
from lepton_pipe.run.expected import expected_files
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.own_files import OwnFiles
from lepton_pipe.run.remote_lock import refuse_locked_url, remote_holder, remove_stale
from lepton_pipe.run.status import State, Status, run_status
from lepton_pipe.run.upload import BEGUN, remove_left, stopped_upload
from lepton_pipe.run.uploaded import arrived_count
from lepton_pipe.run.verify import Verified, compare, verify
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.output import Output, RemoteOutput
from lepton_pipe.store.remote import CONNECTIONS, FEW_TRIES, RemoteFolder


def status_of(out: Output) -> Status:
    """Look where the run of any output stands; changes nothing."""
    if not isinstance(out, RemoteOutput):
        return run_status(out)
    local, remote = run_status(out.local), _remote(out)
    record = _record(remote)
    writer = local.holder or remote_holder(out)
    notes, left = list(local.notes), stopped_upload(remote)
    state: State = "nothing" if record is None else "complete"
    if record is None and (left is not None or local.state != "nothing"):
        state = "stopped"
    if writer is not None:
        state = "running"
    if state == "complete" and HiddenFolder(out.local).is_there():
        notes.append(f"what was staged for it is still there; lepton-pipe clean {out} removes it")
    notes += _upload_notes(out, left)
    lacking = (record or {}).get("quarantined")
    return replace(
        local,
        out=out,
        state=state,
        holder=writer,
        published=record is not None,
        digest=(record or {}).get("digest"),
        stages=() if state in ("complete", "nothing") else local.stages,
        quarantined=tuple(lacking) if isinstance(lacking, list) else local.quarantined,
        notes=tuple(notes),
    )


def _upload_notes(out: RemoteOutput, left: str | None) -> list[str]:
    if left is None:
        return []
    staged = HiddenFolder(out.local).staged()
    if staged is None:
        return [
            f"an upload has begun; it is staged in {left}: ask there, or name it with --staging"
        ]
    return [f"an upload has begun: {arrived_count(staged)} objects have arrived"]


def verify_any(out: Output) -> Verified:
    """Read every file or object of a result, and compare it with the ledger; see `verify`."""
    if not isinstance(out, RemoteOutput):
        return verify(out)
    remote = _remote(out)
    said = remote.read(f"{KNOWN}/{LEDGER}")
    # With a ledger the record was lost, unless it has yet to come.
    if remote.read(MARKER) is None and (said is None or remote.read(BEGUN) is not None):
        raise RefusedError(f"{out} is no result of lepton_pipe: it has no {MARKER}")
    if said is None:
        raise RefusedError(
            f"{out} has no {KNOWN}/{LEDGER}, which says what its objects must hold: it was "
            "removed; make the result anew to verify it"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LEDGER
        path.write_bytes(said)
        del said
        with Ledger.open(path, readonly=True) as ledger:
            expected = expected_files(ledger)
            return compare(
                out,
                expected,
                lambda file: remote.size_and_crc(file.name, file.size),
                lambda: (n for n in remote.names() if not n.startswith(f"{KNOWN}/")),
                OwnFiles.of_ledger(ledger),
                threads=CONNECTIONS,
            )


def clean_any(out: Output) -> Cleaned:
    """Remove what a stopped run left beside any output, and of its upload; see `clean`.

    Objects of an upload that is not complete are removed; those of a result never are.
    """
    if not isinstance(out, RemoteOutput):
        return clean(out)
    remote = _remote(out)
    refuse_locked(out.local)
    refuse_locked_url(out)
    if remote.read(MARKER) is not None:
        objects = int(remote.read(BEGUN) is not None) + remote.abort_parts()
        remote.remove(BEGUN)
    else:
        # With nothing of ours there, what lies there is none of our business.
        objects = remove_left(out, remote) if remote.read(BEGUN) is not None else 0
    objects += remove_stale(out)
    return replace(clean(out.local), out=out, objects=objects)


def _remote(out: RemoteOutput) -> RemoteFolder:
    remote = RemoteFolder(out.url)
    remote.tries = FEW_TRIES
    return remote


def _record(remote: RemoteFolder) -> Mapping[str, Any] | None:
    said = remote.read(MARKER)
    if said is None:
        return None
    try:
        data = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
