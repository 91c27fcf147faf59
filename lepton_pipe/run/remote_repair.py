"""Make again in a folder of this machine what is damaged of a result at a URL, and send that alone.

What tells of the result is fetched: ledger, journals, tables and metadata. Chunks stay where they
are, but for those that blocks read which are run again. Each object that is sent takes the place
of a damaged one in one act, and has the bytes that were published.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.failpoints import failpoint
from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.run.expected import Expected, expected_chunks, expected_others
from lepton_pipe.run.publish import Staging
from lepton_pipe.run.published import Spoilt
from lepton_pipe.run.remote_lock import RemoteLock
from lepton_pipe.run.upload import put_checked, visibility
from lepton_pipe.store.output import RemoteOutput
from lepton_pipe.store.remote import RemoteFolder

_AT_ONCE = 4


class RemoteCopy(NamedTuple):
    """A copy of a result at a URL without its chunks, in which it is repaired.

    Attributes
    ----------
    path
        The folder.
    spoilt
        What is damaged.
    """

    path: Path
    spoilt: Spoilt
    remote: RemoteFolder
    lock: RemoteLock

    def send(self) -> None:
        """Send what was damaged, as it is in the copy now: chunks first, and the record at last.

        Raises
        ------
        RunError
            When the store fails for longer than can be waited; what has arrived is whole.
        DamagedError
            When the copy does not hold what was published; that is not sent.
        """
        with Ledger.open(self.path / KNOWN / LEDGER, readonly=True) as ledger:
            chunks = [f for f in expected_chunks(ledger) if f.name in self.spoilt.names]
            others = [f for f in expected_others(ledger) if f.name in self.spoilt.names]
        self.lock.check()
        with self._pool() as pool:
            for number, _ in enumerate(pool.map(self._put, chunks), 1):
                failpoint("mend", number)
        self.lock.check()
        for number, file in enumerate(sorted(others, key=visibility), 1):
            self._put(file)
            failpoint("mend", len(chunks) + number)

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(_AT_ONCE, "lepton-mend")
        try:
            yield pool
        except BaseException:
            self.remote.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _put(self, file: Expected) -> None:
        put_checked(self.remote, self.path, file)

    def remove(self, names: Collection[str]) -> None:
        """Remove objects of ours that are part of nothing."""
        self.lock.check()
        for name in names:
            self.remote.remove(name)


@contextmanager
def remote_copy(out: RemoteOutput, spoilt: Collection[str]) -> Iterator[RemoteCopy]:
    """Have a copy of a result for as long as the block runs, and the right to write it.

    Raises
    ------
    LockedError
        When another process writes the result.
    """
    staging = Staging(out.local)
    try:
        remote, path = RemoteFolder(out.url), staging.path / out.name
        with RemoteLock(out, staging.token) as lock:

            def bring(name: str, there: Path) -> None:
                if remote.fetch(name, there) is None:
                    raise DamagedError(f"{out}/{name} was there a moment ago, and is gone")

            _fetch_known(out, remote, path, spoilt)
            yield RemoteCopy(path, Spoilt(frozenset(spoilt), bring), remote, lock)
    finally:
        with suppress(OSError):
            staging.discard()


def _fetch_known(
    out: RemoteOutput, remote: RemoteFolder, path: Path, spoilt: Collection[str]
) -> None:
    """Fetch what tells of a result, and what of it is no chunk and whole."""
    for name in RemoteFolder(f"{out.url}/{KNOWN}").names():
        remote.fetch(f"{KNOWN}/{name}", path / KNOWN / name)
    if not (path / KNOWN / LEDGER).is_file():
        raise RunError(f"{out}/{KNOWN}/{LEDGER} was there a moment ago, and is gone")
    with Ledger.open(path / KNOWN / LEDGER, readonly=True) as ledger:
        for file in expected_others(ledger):
            if file.name not in spoilt:
                found = remote.fetch(file.name, path / file.name)
                if found != (file.size, file.crc):
                    raise RunError(f"{out}/{file.name} has changed just now; run it again")
