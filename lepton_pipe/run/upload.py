"""Publish at a URL: objects first that nobody looks for, then metadata, and the record at last.

An object store cannot rename a folder, but each object is there whole or not at all. So chunks are
sent first: without the metadata above them they are nobody's. Then come tables and metadata, from
the inside out, so that whatever can be opened is complete; and at last the record ``lepton.json``,
which makes it a result.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path

from lepton_pipe.errors import DamagedError, OutputExistsError, RunError
from lepton_pipe.failpoints import failpoint
from lepton_pipe.ledger import KNOWN, LEDGER
from lepton_pipe.ledger.holder import myself
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.report.progress import Watcher
from lepton_pipe.run import uploaded
from lepton_pipe.run.expected import Expected, expected_chunks, expected_others
from lepton_pipe.run.uploaded import Sent, Uploaded
from lepton_pipe.store.checksums import FileSum
from lepton_pipe.store.durable import size_and_crc
from lepton_pipe.store.open import MARKER
from lepton_pipe.store.output import RemoteOutput
from lepton_pipe.store.remote import CONNECTIONS, WHOLE_BYTES, RemoteFolder

BEGUN = f"{KNOWN}/upload.json"
"""Object that is there while, and only while, a result is uploaded: what lies around it is ours."""
_AT_ONCE = 1024
_MEMORY = 2 * WHOLE_BYTES
"""Bytes of files that are on their way at the same time."""


class Upload:
    """One result on its way to its URL.

    Parameters
    ----------
    output, staging
        Where it will be, and the folder with the whole of it.
    sent
        What was sent before.
    check
        Raises when this process may not write the result any more.
    """

    def __init__(
        self,
        output: RemoteOutput,
        staging: Path,
        sent: Uploaded,
        check: Callable[[], None],
        watcher: Watcher,
    ) -> None:
        self._output, self._staging, self._sent = output, staging, sent
        self._check, self._watcher = check, watcher
        self._remote = RemoteFolder(output.url)
        self._memory = _Budget(_MEMORY)
        self._count = 0

    def send(self) -> None:
        """Send everything but the record; the result is not there yet when this returns.

        Raises
        ------
        RunError
            When the store fails for longer than can be waited; what has arrived is kept.
        DamagedError
            When a file is not any more what was written.
        """
        with Ledger.open(self._staging / KNOWN / LEDGER, readonly=True) as ledger:
            others = sorted(expected_others(ledger), key=visibility)
            self._begin(others)
            failpoint("upload", 2)
            self._send_hidden(expected_chunks(ledger))
        self._send_hidden(self._known())
        failpoint("upload", 3)
        self._remove_unwanted()
        failpoint("upload", 4)
        self._check()
        try:
            for number, file in enumerate(others[:-1]):
                self._send_one(file)
                failpoint("upload", 5 + number)
        except BaseException:
            self._remote.stop()  # each is tried once; the next run withdraws what is left
            with suppress(RunError):
                self._withdraw(others)
            raise
        self._record = others[-1]

    def commit(self) -> None:
        """Send the record: the result is there when this returns."""
        self._check()
        self._send_one(self._record)

    def end(self) -> None:
        """Remove what says that an upload is on its way."""
        with suppress(RunError):  # it does no harm, and `clean` removes it
            self._remote.remove(BEGUN)

    # -- beginning --------------------------------------------------------------------------

    def _begin(self, others: Iterable[Expected]) -> None:
        """Find out what is there of an earlier upload, and claim the place."""
        self._remote.abort_parts()
        token = _token(self._remote.read(BEGUN))
        if token == self._sent.token:
            self._withdraw(others)
        else:
            remove_left(self._output, self._remote)
            self._sent.forget_all()
            failpoint("upload", 1)
            self._remote.put(BEGUN, self._claim())
        self._sent.begin()

    def _claim(self) -> bytes:
        more = {"token": self._sent.token, "staging": str(self._output.staging)}
        return json.dumps({**json.loads(myself()), **more}).encode()

    def _withdraw(self, others: Iterable[Expected]) -> None:
        """Remove what could be opened already: chunks below it may be about to change."""
        # The outermost first, so that what can still be opened is whole.
        for name in reversed(self._sent.of(f.name for f in others)):
            self._remote.remove(name)
            self._sent.removed(name)

    # -- sending ----------------------------------------------------------------------------

    def _known(self) -> Iterator[Expected]:
        """Yield the files of the ledger and the journal."""
        folder = self._staging / KNOWN
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.name.startswith(uploaded.NAME):
                yield Expected(file.relative_to(self._staging).as_posix(), *size_and_crc(file))

    def _send_hidden(self, files: Iterator[Expected]) -> None:
        """Send files of which nobody sees anything before there is metadata; many at once."""
        with self._pool() as pool:
            while some := tuple(islice(files, _AT_ONCE)):
                todo = self._missing(some, pool)
                self._sent.expect((f.name, Sent(f.size, f.crc, None)) for f in todo)
                futures = {pool.submit(self._put, f): f for f in todo}
                for future in as_completed(futures):
                    self._arrived(futures[future], future.result())
                for _ in range(len(some) - len(todo)):
                    self._watcher.tick()

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        pool = ThreadPoolExecutor(CONNECTIONS, "lepton-upload")
        try:
            yield pool
        except BaseException:
            self._remote.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _missing(
        self, files: tuple[Expected, ...], pool: ThreadPoolExecutor
    ) -> tuple[Expected, ...]:
        """Return the files that are not in the store as they must be; note the others again."""
        noted = self._sent.of(f.name for f in files)
        same = [f for f in files if _is_same(f, noted.get(f.name))]
        folders = sorted({f.name.rpartition("/")[0] for f in same})
        there = dict(chain.from_iterable(d.items() for d in pool.map(self._remote.folder, folders)))
        done = [
            f for f in same if there.get(f.name) == (f.size, noted[f.name].tag) and f.name in there
        ]
        self._sent.expect((f.name, noted[f.name]) for f in done)
        names = {f.name for f in done}
        return tuple(f for f in files if f.name not in names)

    def _put(self, file: Expected) -> str:
        with self._memory.taken(min(file.size, WHOLE_BYTES)):
            return put_checked(self._remote, self._staging, file)

    def _send_one(self, file: Expected) -> None:
        self._sent.expect([(file.name, Sent(file.size, file.crc, None))])
        self._arrived(file, self._put(file))

    def _arrived(self, file: Expected, tag: str) -> None:
        self._sent.arrived(file.name, tag)
        self._watcher.tick()
        self._count += 1
        failpoint("object", self._count)

    def _remove_unwanted(self) -> None:
        """Remove what an earlier upload of another plan has sent."""
        for names in self._sent.unwanted():
            for name in names:
                self._remote.remove(name)
                self._sent.removed(name)


class _Budget:
    """Bytes that may be in memory at the same time, over all threads."""

    def __init__(self, size: int) -> None:
        self._free, self._changed = size, threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait until so many bytes are free, and have them."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def put_checked(remote: RemoteFolder, folder: Path, file: Expected) -> str:
    """Send a file of a folder, if it is what the ledger says, and return its tag.

    It takes up to `WHOLE_BYTES` of memory.

    Raises
    ------
    DamagedError
        When it is something else.
    RunError
        When the store fails for longer than can be waited.
    """
    path = folder / file.name
    if file.size > WHOLE_BYTES:
        _refuse_changed(file, path, size_and_crc(path))
        return remote.put_file(file.name, path)
    data = path.read_bytes()
    _refuse_changed(file, path, (len(data), FileSum.of(data).crc))
    return remote.put(file.name, data)


def visibility(file: Expected) -> tuple[int, int, str]:
    """Return the place of a file in the order in which a result becomes visible."""
    if file.name == MARKER:
        return 2, 0, file.name
    metadata = file.name.endswith("zarr.json")
    return int(metadata), -file.name.count("/"), file.name


def _is_same(file: Expected, noted: Sent | None) -> bool:
    return noted is not None and noted == (file.size, file.crc, noted.tag) and bool(noted.tag)


def _refuse_changed(file: Expected, path: Path, found: tuple[int, int]) -> None:
    if found != (file.size, file.crc):
        raise DamagedError(
            f"{path} is not what was written there, so nothing was published; type the same "
            "command again: all that is staged is read, and what is damaged is made anew"
        )


def _token(said: bytes | None) -> str | None:
    """Return the token of the upload that an object `BEGUN` tells of."""
    try:
        token = json.loads(said or b"{}").get("token")
    except (ValueError, AttributeError, RecursionError):
        return None
    return token if isinstance(token, str) else None


def refuse_output_at(output: RemoteOutput, remote: RemoteFolder) -> None:
    """Raise if something is at a URL that is no stopped upload of ours.

    Raises
    ------
    OutputExistsError
        When there is.
    """
    if remote.read(MARKER) is not None:
        raise OutputExistsError(
            f"output {output} exists already. An object store cannot exchange it for a new one in "
            "one act, so it is never overwritten: choose another out=, or remove it first with "
            "the tools of the store"
        )
    if remote.read(BEGUN) is None and (name := next(remote.names(), None)) is not None:
        raise OutputExistsError(
            f"output {output} has objects that lepton_pipe did not put there ({name}), so it is "
            "left alone; choose another out="
        )


def remove_left(output: RemoteOutput, remote: RemoteFolder) -> int:
    """Remove what a stopped upload left at a URL, and return how many objects that were.

    Raises
    ------
    OutputExistsError
        When a result is there, or something that is not ours; nothing was removed.
    """
    refuse_output_at(output, remote)
    count = remote.abort_parts()
    with ThreadPoolExecutor(CONNECTIONS, "lepton-remove") as pool:
        names = (n for n in remote.names() if n != BEGUN)
        while some := tuple(islice(names, _AT_ONCE)):
            count += len(list(pool.map(remote.remove, some)))
    if remote.read(BEGUN) is not None:
        remote.remove(BEGUN)  # at last: it says that the others were ours
        count += 1
    return count


def stopped_upload(remote: RemoteFolder) -> str | None:
    """Return where a stopped upload has its staging: host and folder. None where there is none."""
    said = remote.read(BEGUN)
    if said is None:
        return None
    try:
        data = json.loads(said)
        return f"{data['host']}:{data['staging']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "a place that cannot be read"
