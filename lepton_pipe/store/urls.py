"""Remote addresses: an allow-list of schemes, and clear words when a driver is missing."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lepton_pipe.errors import InputError, UsageError

_DRIVERS = {
    "s3": ("s3fs", "pip install 'lepton-pipe[s3]'"),
    "gs": ("gcsfs", "pip install 'lepton-pipe[gcs]'"),
    "gcs": ("gcsfs", "pip install 'lepton-pipe[gcs]'"),
    "az": ("adlfs", "pip install adlfs"),
    "abfs": ("adlfs", "pip install adlfs"),
    "http": ("aiohttp", "pip install 'lepton-pipe[http]'"),
    "https": ("aiohttp", "pip install 'lepton-pipe[http]'"),
    "memory": ("fsspec", "pip install fsspec"),
}
SCHEMES = ("file", *_DRIVERS)
"""The schemes that may be opened."""

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)(:/{1,2}|::)")


def is_url(what: str) -> bool:
    """Tell whether `what` is written as a URL (``scheme://`` or chained ``scheme::``).

    ``scheme:/`` counts too: it is what is left of a URL that was made a `pathlib.Path`.
    """
    return _URL.match(what) is not None


def local_path(url: str) -> Path | None:
    """Return the path of a ``file://`` URL; None for any other."""
    parts = urlsplit(url)
    if parts.scheme.lower() != "file":
        return None
    if parts.netloc not in {"", "localhost"}:
        raise UsageError(f"{url}: file:// needs three slashes before an absolute path")
    return Path(unquote(parts.path))


def check_url(url: str) -> str:
    """Return the scheme of `url` when it may be opened and its driver is installed.

    Raises
    ------
    UsageError
        When the scheme is not on the allow-list, or schemes are chained.
    InputError
        When the package that speaks the scheme is not installed.
    """
    match = _URL.match(url)
    scheme = match.group(1).lower() if match else ""
    slashes = match.group(2) if match else ""
    known = scheme == "file" or (scheme in SCHEMES and slashes == "://")
    if not known or slashes == "::" or "::" in url:
        raise UsageError(
            f"{url}: addresses of this kind are not opened; allowed are "
            f"{', '.join(s + '://' for s in SCHEMES)} and paths"
        )
    if scheme != "file":
        package, remedy = _DRIVERS[scheme]
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{url}: {scheme}:// needs the package {package}: {remedy}")
    return scheme


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system that speaks to `url`, and the path of `url` in it."""
    import fsspec

    check_url(url)
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{url}: cannot be reached ({error})") from error
