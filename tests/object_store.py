"""An object store that speaks as much S3 as is asked of it here, and fails when it is told to.

It knows conditional writes, checksums, ranges, listings in pages and uploads in parts, as the S3
API reference has them. Nothing is encrypted and nobody is asked for a password.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.sax.saxutils import escape

import fsspec
from aiohttp import web

from lepton_pipe.store.checksums import crc32c
from tests.command import PATIENCE

BUCKET = "bucket"
# Uploaded in an environment where nothing else is configured.
_NOTHING = "/dev/null"


class Thing(NamedTuple):
    """An object: its bytes, and when it was written."""

    data: bytes
    etag: str
    modified: datetime


Fault = Callable[[str, str, int], Any]


class ObjectStore:
    """A bucket of objects.

    Attributes
    ----------
    objects
        What is there, by key.
    requests
        What was asked: method and key of each request, in order.
    fault
        Is asked before each request is served (method, key, how many there were of such): a number
        answers with that status, ``"reset"`` closes the connection, ``"lost"`` serves it and closes
        the connection without an answer, ``"flip"`` stores other bytes, None serves it.
    conditional
        Whether ``If-None-Match`` is heeded.
    page
        How many keys a listing holds.
    clock
        What is added to the time.
    """

    def __init__(self, port: int = 0) -> None:
        self.objects: dict[str, Thing] = {}
        self.parts: dict[str, tuple[str, dict[int, bytes]]] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda *_: None
        self.conditional, self.page, self.clock = True, 1000, timedelta()
        self.checksums = self.plain_etags = True
        self.port = port
        self._lock = threading.Lock()

    # -- for tests --------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Return what tells a process to use this store."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "AKIATESTKEY",
            "AWS_SECRET_ACCESS_KEY": "very-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": _NOTHING,
            "AWS_SHARED_CREDENTIALS_FILE": _NOTHING,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def names(self, prefix: str) -> set[str]:
        """Return the keys under a prefix, without it."""
        return {k.removeprefix(prefix) for k in self.objects if k.startswith(prefix)}

    def bytes(self, prefix: str) -> dict[str, bytes]:
        """Return what is there under a prefix."""
        names = self.names(prefix)
        return {n: self.objects[prefix + n].data for n in sorted(names)}

    def count(self, method: str, key: str | None = None) -> int:
        """Return how often something was asked."""
        return sum(m == method and key in (None, k) for m, k in self.requests)

    def put(self, key: str, data: bytes) -> None:
        """Put an object there."""
        self._store(key, data)

    # -- the protocol -----------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        bucket, _, key = unquote(request.raw_path.split("?")[0]).lstrip("/").partition("/")
        data = _unchunked(await request.read(), request.headers)
        with self._lock:
            self.requests.append((request.method, key))
            kind = self.fault(request.method, key, self.count(request.method, key))
        if isinstance(kind, float):
            await asyncio.sleep(kind)
        if isinstance(kind, int):
            return _error(kind, "InternalError" if kind >= 500 else "AccessDenied")
        if kind == "reset":
            return _gone(request)
        if kind == "flip":
            data = bytes([data[0] ^ 1]) + data[1:]
        if bucket != BUCKET:
            return _error(404, "NoSuchBucket")
        answer = self._answer(request, key, data)
        return _gone(request) if kind == "lost" else answer

    def _answer(self, request: web.Request, key: str, data: bytes) -> web.Response:
        query = request.query
        if request.method == "GET" and "uploads" in query:
            return self._list_parts(query.get("prefix", ""))
        if request.method == "GET" and not key:
            return self._list(query)
        if request.method == "POST":
            return self._post(query, key)
        if request.method == "PUT":
            return self._put(request, key, data)
        if request.method == "DELETE":
            gone = self.parts if "uploadId" in query else self.objects
            gone.pop(query.get("uploadId", key), None)
            return web.Response(status=204)
        return self._get(request, key)

    def _put(self, request: web.Request, key: str, data: bytes) -> web.Response:
        said = request.headers.get("x-amz-checksum-crc32c") if self.checksums else None
        if said is not None and said != _crc(data):
            return _error(400, "BadDigest")
        if "uploadId" in request.query:
            upload = self.parts[request.query["uploadId"]][1]
            upload[int(request.query["partNumber"])] = data
            return web.Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})  # noqa: S324
        if self.conditional and request.headers.get("If-None-Match") == "*" and key in self.objects:
            return _error(412, "PreconditionFailed")
        headers = {"ETag": f'"{self._store(key, data).etag}"'}
        return web.Response(headers=headers | ({"x-amz-checksum-crc32c": said} if said else {}))

    def _store(self, key: str, data: bytes, etag: str | None = None) -> Thing:
        etag = etag or hashlib.md5(data).hexdigest()  # noqa: S324
        if not self.plain_etags:
            etag = hashlib.sha256(etag.encode()).hexdigest()[:32]
        thing = Thing(bytes(data), etag, datetime.now(UTC) + self.clock)
        self.objects[key] = thing
        return thing

    def _post(self, query: Any, key: str) -> web.Response:
        if "uploads" in query:
            number = f"upload-{len(self.requests)}"
            self.parts[number] = key, {}
            return _xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")
        _, parts = self.parts.pop(query["uploadId"])
        data = [parts[n] for n in sorted(parts)]
        md5s = b"".join(hashlib.md5(d).digest() for d in data)  # noqa: S324
        etag = f"{hashlib.md5(md5s).hexdigest()}-{len(data)}"  # noqa: S324
        self._store(key, b"".join(data), etag)
        return _xml("CompleteMultipartUploadResult", f"<ETag>{etag}</ETag>")

    def _get(self, request: web.Request, key: str) -> web.Response:
        if key not in self.objects:
            return _error(404, "NoSuchKey")
        thing = self.objects[key]
        headers = {
            "ETag": f'"{thing.etag}"',
            "Last-Modified": format_datetime(thing.modified, True),
        }
        wanted = request.http_range
        if wanted.start is None and wanted.stop is None:
            if request.method == "HEAD":
                return web.Response(headers=headers | {"Content-Length": str(len(thing.data))})
            return web.Response(body=thing.data, headers=headers)
        piece = thing.data[wanted]
        start = wanted.start if wanted.start >= 0 else len(thing.data) + wanted.start
        span = f"bytes {start}-{start + len(piece) - 1}/{len(thing.data)}"
        return web.Response(status=206, body=piece, headers=headers | {"Content-Range": span})

    def _list(self, query: Any) -> web.Response:
        prefix, end = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", "")
        found: dict[str, str] = {}
        for key in sorted(k for k in self.objects if k.startswith(prefix)):
            rest = key[len(prefix) :]
            if end and end in rest:
                folder = escape(prefix + rest.split(end)[0] + end)
                found[folder] = f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
            else:
                found[key] = _listed(key, self.objects[key])
        names = sorted(n for n in found if n > after)
        more = names[self.page :]
        token = "".join(escape(n) for n in names[self.page - 1 : self.page])
        tail = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>"
        tail += f"<NextContinuationToken>{token}</NextContinuationToken>" if more else ""
        body = "".join(found[n] for n in names[: self.page])
        return _xml("ListBucketResult", f"<Prefix>{escape(prefix)}</Prefix>{body}{tail}")

    def _list_parts(self, prefix: str) -> web.Response:
        uploads = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{number}</UploadId></Upload>"
            for number, (key, _) in self.parts.items()
            if key.startswith(prefix)
        )
        return _xml("ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{uploads}")


def _listed(key: str, thing: Thing) -> str:
    when = thing.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
        f"<ETag>&quot;{thing.etag}&quot;</ETag><Size>{len(thing.data)}</Size></Contents>"
    )


def _crc(data: bytes) -> str:
    return base64.b64encode(crc32c(data).to_bytes(4, "big")).decode()


def _xml(name: str, body: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{body}</{name}>'
    return web.Response(text=text, content_type="application/xml")


def _error(status: int, code: str) -> web.Response:
    answer = _xml("Error", f"<Code>{code}</Code><Message>{code}, as told</Message>")
    answer.set_status(status)
    return answer


def _gone(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _unchunked(data: bytes, headers: Any) -> bytes:
    """Return the bytes of a body that was sent in chunks with a checksum behind them."""
    if "aws-chunked" not in headers.get("Content-Encoding", ""):
        return data
    found = b""
    while data:
        head, _, data = data.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if size == 0:
            break
        found, data = found + data[:size], data[size + 2 :]
    return found


@contextmanager
def object_store():
    """Serve an empty store on a free port of this machine, for as long as the block runs."""
    # Of an earlier store, which was elsewhere.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store, loop = ObjectStore(), asyncio.new_event_loop()
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", store.serve)
    runner = web.AppRunner(app, access_log=None)

    async def begin() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        store.port = site._server.sockets[0].getsockname()[1]

    loop.run_until_complete(begin())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
