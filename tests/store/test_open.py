"""What may be opened: paths, URLs, arrays; what may not, and how that is said."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import io
import re
import socket
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
import zarr

from lepton_pipe.errors import ExitStatus, InputError, RunError, UsageError
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.spec import ImageType
from lepton_pipe.store import ArrayTarget, Layout, create_image, open_source
from lepton_pipe.store.source import HandleCache
from tests.command import python
from tests.store.conftest import pixels


class _Plain(http.server.SimpleHTTPRequestHandler):
    """Sends whole files, whatever part is asked for."""

    def log_message(self, *args):
        pass


class _Ranges(_Plain):
    """Sends the part that is asked for."""

    def send_head(self):
        path = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not path.is_file() or asked is None:
            return super().send_head()
        data = path.read_bytes()
        first, last = asked.groups()
        part = data[int(first) : int(last or len(data)) + 1] if first else data[-int(last) :]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return io.BytesIO(part)


@pytest.fixture(params=[_Plain, _Ranges])
def served(tmp_path, request):
    """A folder and the address under which a web server on this machine shows it."""
    handler = functools.partial(request.param, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _image(path):
    whole = pixels((5, 20, 30))
    kind = ImageType(Grid.of(whole.shape, scale=(2, 1, 1)), whole.dtype)
    create_image(path, "a", kind, [Layout(kind.grid, (2, 8, 8), (4, 16, 16))])
    ArrayTarget(path).write(kind.grid.region, whole)
    return whole, kind


def test_a_source_is_returned_as_it_is():
    source = open_source(np.zeros((3, 3)))
    assert open_source(source) is source


def test_file_urls_and_user_folders(tmp_path, monkeypatch):
    whole, kind = _image(tmp_path / "my image.zarr")
    url = (tmp_path / "my image.zarr").as_uri()
    assert url.startswith("file://")
    assert open_source(url).type == kind
    assert open_source(url.replace("file://", "file:")).type == kind
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("~/my image.zarr").type == kind
    monkeypatch.chdir(tmp_path)
    relative = open_source("my image.zarr")
    assert relative.uri == str(tmp_path / "my image.zarr" / "0")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(relative.read(kind.grid.region), whole)


def test_zarr_over_http(served):
    folder, address = served
    whole, kind = _image(folder / "a.zarr")
    source = open_source(f"{address}/a.zarr")
    assert source.type == kind
    np.testing.assert_array_equal(source.read(kind.grid.region), whole)
    part = Region((1, 2, 3), (2, 15, 29))
    np.testing.assert_array_equal(source.read(part), whole[part.slices])
    assert open_source(f"{address}/a.zarr/0").type == kind
    assert source.paths() == ()
    assert source.stored_bytes() is None
    with pytest.raises(InputError, match="no zarr array or group"):
        open_source(f"{address}/b.zarr")


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_a_server_that_does_not_answer_is_no_missing_file(name):
    with socket.socket() as taken:  # and nobody listens there
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(RunError, match=rf"{name}.*: cannot be fetched \(.*onnect"):
            open_source(f"http://127.0.0.1:{taken.getsockname()[1]}/{name}")


def test_a_tiff_file_that_a_server_has_not_is_missing(served):
    with pytest.raises(InputError, match=r"a\.tif: does not exist; check the address"):
        open_source(f"{served[1]}/a.tif")


def test_zarr_in_memory():
    whole = pixels((4, 6))
    store = zarr.storage.FsspecStore.from_url("memory://lepton/a.zarr")
    zarr.create_array(store, data=whole)
    source = open_source("memory://lepton/a.zarr")
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)


def test_tiff_by_url(tmp_path):
    whole = pixels((3, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", whole, photometric="minisblack", metadata=None)
    with fsspec.open("memory://lepton/a.tif", "wb") as file:
        file.write((tmp_path / "a.tif").read_bytes())
    source = open_source("memory://lepton/a.tif")
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)
    assert source.stored_bytes() == (tmp_path / "a.tif").stat().st_size
    with pytest.raises(InputError, match="does not exist"):
        open_source("memory://lepton/b.tif")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/a.zarr",
        "sftp://host/a.tif",
        "simplecache::s3://bucket/a.zarr",
        "file::memory://a",
        "s3://bucket/a.zip::zip://b",
        "github://org/repo/a.zarr",
        "s3:/bucket/a.zarr",
    ],
)
def test_other_schemes_are_refused(url):
    with pytest.raises(UsageError, match=r"allowed are .*s3://.*https://") as caught:
        open_source(url)
    assert url in str(caught.value)


def test_a_missing_driver_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in {"s3fs", "gcsfs"} else found(name)
    )
    with pytest.raises(InputError, match=r"pip install 'lepton-pipe\[s3\]'"):
        open_source("s3://bucket/a.zarr")
    with pytest.raises(InputError, match=r"pip install 'lepton-pipe\[gcs\]'"):
        open_source("gs://bucket/a.tif")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("{}/nothing.zarr", "does not exist"),
        ("{}/a.xyz", "not understood"),
        ("{}/a.npy", "cannot be read as a .npy file"),
        ("", "empty"),
        (17, "int: not an image"),
        (None, "NoneType: not an image"),
    ],
)
def test_what_is_no_image_gets_one_clear_message(tmp_path, what, message):
    (tmp_path / "a.xyz").write_text("?")
    (tmp_path / "a.npy").write_text("?")
    if isinstance(what, str):
        what = what.format(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_source(what)
    assert caught.value.exit_status == ExitStatus.USAGE
    assert "\n" not in str(caught.value)


def test_pickled_npy_is_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        open_source(tmp_path / "a.npy")


def test_arrays_that_are_no_image():
    with pytest.raises(InputError, match="0 axes"):
        open_source(np.float32(3))
    with pytest.raises(InputError, match="dtype"):
        open_source(np.zeros((3, 3), complex))
    with pytest.raises(InputError, match="cannot place axis 'q'"):
        open_source(np.zeros((3, 3)), axes="qy")
    with pytest.raises(InputError, match="no scale level 1"):
        open_source(np.zeros((3, 3)), level=1)


def test_an_array_is_identified_by_its_values():
    one, two = np.zeros((3, 4)), np.zeros((3, 4))
    assert open_source(one).identity() == open_source(two).identity()
    two[1, 1] = 1
    assert open_source(one).identity() != open_source(two).identity()


def test_handles_are_opened_once_and_the_oldest_is_dropped():
    opened = []
    cache = HandleCache(size=2)
    for key in "abacab":
        cache.get(key, lambda key=key: opened.append(key))
    assert opened == ["a", "b", "c", "b"]


def test_readers_of_other_files_are_not_loaded_for_zarr(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((4, 4), np.uint8))
    code = (
        "import sys\n"
        "from lepton_pipe.store import open_source\n"
        f"open_source({str(tmp_path / 'a.zarr')!r})\n"
        "print([m for m in ('tifffile', 'PIL') if m in sys.modules])"
    )
    assert python("-c", code, cwd=tmp_path).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["a.npy", "deep/b.NPY", "c.png", "d.jpeg", "e.npy?X-Signature=1"])
@pytest.mark.parametrize("at", ["https://127.0.0.1:1/", "s3://bucket/"])
def test_files_that_are_not_read_from_a_url_say_what_is(at, name):
    told = "not read from a URL, where zarr, OME-Zarr and TIFF are; download it"
    with pytest.raises(InputError, match=told) as refused:
        open_source(at + name)
    assert f"{name.partition('?')[0].lower().rpartition('.')[2]} files" in str(refused.value)
    assert "Signature" not in str(refused.value)
