"""Staging of a result at a URL: made in a folder of this machine, published by an upload."""

from __future__ import annotations

from pathlib import Path

from lepton_pipe.errors import RefusedError, RunError
from lepton_pipe.failpoints import failpoint
from lepton_pipe.report.progress import Watcher
from lepton_pipe.run.interrupts import signals_held
from lepton_pipe.run.publish import Staging
from lepton_pipe.run.remote_lock import RemoteLock
from lepton_pipe.run.upload import Upload, refuse_output_at
from lepton_pipe.run.uploaded import Uploaded
from lepton_pipe.store.durable import remove_partials
from lepton_pipe.store.output import Output, RemoteOutput
from lepton_pipe.store.remote import RemoteFolder


class RemoteStaging:
    """A private folder whose content `publish` sends to a URL; see `Staging`, which it is like.

    It holds two locks: that of the folder, and that of the URL. After a failure or a kill at any
    point there is no result at the URL, or the whole of it; what was sent stays for the next run
    to go on from, as does the folder.

    Parameters
    ----------
    out
        The result.
    resume
        Go on with what a run that was stopped has left, if there is such; else it is removed.
    watcher
        Is told how the upload goes.

    Raises
    ------
    LockedError
        When another run writes this result, from wherever.
    OutputExistsError
        When something is at the URL that is not ours, or a result.
    RefusedError
        When the store cannot be reached or written to.
    """

    def __init__(self, out: RemoteOutput, *, resume: bool, watcher: Watcher) -> None:
        self.out = out
        self.published = False
        self._watcher = watcher
        self._local = Staging(out.local, resume=resume)
        self._sent: Uploaded | None = None
        self._lock: RemoteLock | None = None
        try:
            self._sent = Uploaded(self.path)
            self._lock = RemoteLock(out, self._sent.token)
            self._lock.acquire()
            # Once more, with the lock: another run may just have published.
            refuse_output_at(out, RemoteFolder(out.url))
        except BaseException as error:
            self._close()
            if self.resumed:
                self._local.keep()
            else:
                self._local.discard()
            if isinstance(error, RunError):
                raise RefusedError(f"{error}; nothing was computed") from error
            raise

    @property
    def path(self) -> Path:
        """The folder to write to."""
        return self._local.path

    @property
    def token(self) -> str:
        """Eight hexadecimal digits that no other process has."""
        return self._local.token

    @property
    def resumed(self) -> bool:
        """Whether `path` holds what an earlier run left."""
        return self._local.resumed

    def publish(self) -> None:
        """Send what is staged to the URL; the result is there when its record is, the last."""
        assert self._sent is not None
        assert self._lock is not None
        remove_partials(self.path)
        upload = Upload(self.out, self.path, self._sent, self._lock.check, self._watcher)
        upload.send()
        failpoint("commit", 1)
        # From here to the end nothing interrupts: who is told of an interrupt is told that there
        # is no result.
        with signals_held(deliver=False):
            upload.commit()
            self.published = True
            failpoint("commit", 2)
            upload.end()
            failpoint("commit", 3)
            self._close()
            self._local.discard()
            failpoint("commit", 4)

    def keep(self) -> None:
        """Leave what was staged and sent for a later run to resume, and let it have the locks."""
        self._close()
        self._local.keep()

    def discard(self) -> None:
        """Remove what was staged."""
        self._close()
        self._local.discard()

    def _close(self) -> None:
        if self._sent is not None:
            self._sent.close()
        if self._lock is not None:
            self._lock.release()
        self._sent = self._lock = None


AnyStaging = Staging | RemoteStaging


def open_staging(out: Output, *, overwrite: bool, watcher: Watcher) -> AnyStaging:
    """Open the staging of a result; go on with what a run that was stopped has left."""
    if isinstance(out, RemoteOutput):
        return RemoteStaging(out, resume=True, watcher=watcher)
    return Staging(out, overwrite=overwrite, resume=True)
