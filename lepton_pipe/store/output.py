"""Where a result goes: a folder of this machine, or a place at a URL that is made here first."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lepton_pipe.errors import UsageError, without_secrets
from lepton_pipe.store.urls import check_url, is_url, local_path

_READ_ONLY = ("http", "https")


@dataclass(frozen=True)
class RemoteOutput:
    """A result at a URL. It is made in a folder of this machine, and uploaded when it is whole.

    Attributes
    ----------
    url
        Where the result will be; without a slash at its end.
    local
        The output of the run as this machine sees it: beside it lies what is staged. Nothing is
        ever put at this path itself. Its name tells apart URLs that end alike.
    """

    url: str
    local: Path

    def __str__(self) -> str:
        return without_secrets(self.url)

    def __truediv__(self, name: str) -> RemoteOutput:
        return RemoteOutput(f"{self.url}/{name}", self.local / name)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def staging(self) -> Path:
        """The folder in which the result is staged."""
        return self.local.parent


Output = Path | RemoteOutput


def output_at(out: str | Path, staging: str | Path | None = None) -> Output:
    """Return where a result goes.

    Parameters
    ----------
    out
        A path, made absolute here; or a URL.
    staging
        Folder in which a result for a URL is made; by default the current one.

    Raises
    ------
    UsageError
        When it has no name, or is a URL that nothing can be written to.
    InputError
        When the package that speaks to the URL is not installed.
    """
    if is_url(str(out)):
        check_url(str(out))
        path = local_path(str(out))
        if path is None:
            return _remote(str(out), staging)
        out = path
    if staging is not None:
        raise UsageError(
            f"staging={staging} is for results at a URL; the result {out} is staged beside itself, "
            "so that it can be published by a rename: leave staging out"
        )
    path = Path(out).expanduser().absolute()
    if path.name in ("", ".."):
        raise UsageError(f"out={path} is no name for an output; name a directory to be made")
    return path


def local_of(out: Output) -> Path:
    """Return the path that stands for an output on this machine."""
    return out.local if isinstance(out, RemoteOutput) else out


def _remote(url: str, staging: str | Path | None) -> RemoteOutput:
    url = url.rstrip("/")
    shown, parts = without_secrets(url), urlsplit(url)
    if parts.scheme.lower() in _READ_ONLY:
        raise UsageError(
            f"out={shown}: nothing can be written to {parts.scheme}://; name an object store "
            "(s3://, gs://, az://) or a local path"
        )
    if parts.query or parts.fragment or parts.password is not None:
        raise UsageError(
            f"out={shown}: the address of a result has no password, '?' or '#'; give credentials "
            "as the store's own tools take them (environment, configuration files)"
        )
    names = [n for n in f"{parts.netloc}{parts.path}".split("/") if n]
    inside = names if parts.scheme.lower() == "memory" else names[1:]
    if not inside or any(n in (".", "..") for n in names):
        raise UsageError(
            f"out={shown} is no name for an output; name a folder in a bucket, such as "
            "s3://bucket/folder/name.zarr"
        )
    folder = Path.cwd() if staging is None else Path(staging).expanduser().absolute()
    mark = hashlib.sha256(url.encode()).hexdigest()[:8]
    return RemoteOutput(url, folder / f"{names[-1]}-{mark}")


def clean_command(out: Output) -> str:
    """Return the command that gives up what a stopped run of an output has kept."""
    command = f"lepton-pipe clean {shlex.quote(str(out))}"
    if isinstance(out, RemoteOutput) and out.staging != Path.cwd():
        return f"{command} --staging {shlex.quote(str(out.staging))}"
    return command
