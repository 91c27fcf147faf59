"""A chunk that is not there is never taken for zeros, unless the user says that it may be."""

from __future__ import annotations

import http.server
import json
import threading
from functools import partial

import numpy as np
import pytest
import tifffile
import zarr

import lepton_pipe as lp
from lepton_pipe.arguments import parse
from lepton_pipe.errors import DamagedError, InputError, RunError, UsageError
from lepton_pipe.geometry import Region
from lepton_pipe.kernels import gaussian
from lepton_pipe.store import open_source
from tests.store.conftest import pixels

TURNED = zarr.codecs.TransposeCodec(order=(1, 0))
LAYOUTS = {
    "v2": {"zarr_format": 2},
    "v2 only for zarr": {"zarr_format": 2, "order": "F"},
    "v3": {},
    "v3 only for zarr": {"filters": TURNED},
}
SHARDED = {
    "direct": {},
    "only for zarr": {"filters": TURNED},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
}


def written(path, **layout):
    """Write an image without one chunk of 4 x 4, which holds fill values alone."""
    whole = pixels((16, 16))
    whole[4:8, 8:12] = 7
    array = zarr.create_array(
        path, shape=whole.shape, dtype="u2", chunks=(4, 4), fill_value=7, **layout
    )
    array[...] = whole
    return whole


def refused(source, region, match):
    with pytest.raises(DamagedError, match=match) as caught:
        source.read(region)
    return str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_chunk_is_refused_with_its_place_and_the_remedy(tmp_path, layout):
    whole = written(tmp_path / "a", **LAYOUTS[layout])
    source = open_source(tmp_path / "a")
    np.testing.assert_array_equal(source.read(Region((8, 0), (16, 16))), whole[8:])
    message = refused(source, source.type.grid.region, r"chunk (c/)?1[./]2 is missing")
    for words in (str(tmp_path / "a"), "[4:8, 8:12]", "fill value", "--sparse", "read as 7"):
        assert words in message
    with pytest.raises(InputError, match=r"1 of 16 chunk files are missing, such as (c/)?1[./]2"):
        source.refuse_incomplete()
    sparse = open_source(tmp_path / "a", sparse=True)
    sparse.refuse_incomplete()
    np.testing.assert_array_equal(sparse.read(sparse.type.grid.region), whole)


@pytest.mark.parametrize("layout", SHARDED)
def test_a_chunk_that_is_missing_in_its_shard_is_refused(tmp_path, layout):
    whole = written(tmp_path / "a", shards=(8, 8), **SHARDED[layout])
    source = open_source(tmp_path / "a")
    np.testing.assert_array_equal(source.read(Region((8, 0), (16, 16))), whole[8:])
    message = refused(source, Region((6, 6), (9, 9)), r"chunk c/0/1 is missing")
    assert "[4:8, 8:12]" in message
    source.refuse_incomplete()  # all files are there
    sparse = open_source(tmp_path / "a", sparse=True)
    np.testing.assert_array_equal(sparse.read(sparse.type.grid.region), whole)
    (tmp_path / "a/c/1/1").unlink()
    refused(source, Region((8, 8), (9, 9)), r"chunk c/1/1 is missing")


def test_an_index_that_is_stored_in_another_way_is_refused_unless_sparse(tmp_path):
    codec = zarr.codecs.ShardingCodec(chunk_shape=(4, 4), index_codecs=[zarr.codecs.BytesCodec()])
    whole = pixels((8, 8))
    array = zarr.create_array(
        tmp_path / "a", shape=(8, 8), dtype="u2", chunks=(8, 8), serializer=codec, compressors=None
    )
    array[...] = whole
    with pytest.raises(InputError, match=r"unusual way.*--sparse"):
        open_source(tmp_path / "a").read(Region((0, 0), (8, 8)))
    sparse = open_source(tmp_path / "a", sparse=True)
    np.testing.assert_array_equal(sparse.read(sparse.type.grid.region), whole)


def test_files_that_are_no_chunks_are_not_counted_as_such(tmp_path):
    written(tmp_path / "a", zarr_format=2)
    for name in (".zattrs", "1.2.0123.partial"):
        (tmp_path / "a" / name).write_text("{}")
    with pytest.raises(InputError, match="1 of 16"):
        open_source(tmp_path / "a").refuse_incomplete()


@lp.pipeline
def blurred(raw: lp.Image, other: lp.Image | None = None):
    """Blur."""
    return gaussian(raw, sigma=1)


def test_a_run_is_refused_before_it_starts(tmp_path):
    written(tmp_path / "a")
    with pytest.raises(InputError, match="1 of 16 chunk files are missing"):
        blurred.plan(raw=tmp_path / "a", out=tmp_path / "o")
    for words in (
        {"raw": tmp_path / "a", "sparse": True},
        {"raw": lp.open_image(tmp_path / "a", sparse=True)},
    ):
        plan = blurred.plan(out=tmp_path / "o", overwrite=True, serial=True, **words)
        plan.run(progress=False)
        assert json.loads((tmp_path / "o/lepton.json").read_text())["inputs"]["raw"]["sparse"]
    given = lp.open_image(tmp_path / "a")
    blurred.plan(raw=given, out=tmp_path / "o", overwrite=True, sparse=True)


@pytest.mark.parametrize("sparse", [True, False])
def test_in_a_result_of_our_own_nothing_may_be_missing(tmp_path, sparse):
    blurred.plan(raw=np.zeros((64, 64), "u1"), out=tmp_path / "o", chunks={"y": 32, "x": 32}).run()
    image = tmp_path / "o/blurred"
    region = Region((0, 0), (64, 64))
    assert not open_source(image, sparse=sparse).read(region).any()  # fill values are written, too
    victim = next(p for p in sorted((image / "0/c").rglob("*")) if p.is_file())
    victim.unlink()
    source = open_source(image, sparse=sparse)
    refused(source, region, "is missing .*though it was written")
    with pytest.raises(InputError, match="All were written when this result was made"):
        source.refuse_incomplete()


def test_a_result_with_quarantined_blocks_may_be_called_sparse(tmp_path):
    blurred.plan(raw=np.ones((8, 8), "u1"), out=tmp_path / "o").run()
    record = tmp_path / "o/lepton.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"quarantined": [{"block": 0}]}))
    (tmp_path / "o/blurred/0/c/0/0").unlink()
    refused(open_source(tmp_path / "o/blurred"), Region((0, 0), (8, 8)), "--sparse")
    assert not open_source(tmp_path / "o/blurred", sparse=True).read(Region((0, 0), (8, 8))).any()


@pytest.mark.parametrize("kind", ["tiles", "strips"])
def test_strips_and_tiles_that_are_left_out(tmp_path, kind):
    path, whole = tmp_path / "a.tif", pixels((32, 32))
    cut = {"tile": (16, 16)} if kind == "tiles" else {"rowsperstrip": 16}
    tifffile.imwrite(path, whole, compression="zlib", **cut)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("Offsets", "ByteCounts"):
            tag = tiff.pages[0].tags[f"{kind.title()[:-1]}{name}"]
            tag.overwrite((*tag.value[:-1], 0))
    with pytest.raises(InputError, match=rf"a\.tif: 1 of \d {kind} of page 0 are not .*--sparse"):
        open_source(path)
    whole[16:, 16 * (kind == "tiles") :] = 0
    source = open_source(path, sparse=True)
    np.testing.assert_array_equal(source.read(source.type.grid.region), whole)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["raw=a", "--sparse", "out=o"], {"raw", "other"}),
        (["--sparse", "raw", "raw=a", "out=o"], {"raw"}),
        (["raw=a", "--sparse=other", "out=o"], {"other"}),
        (["raw=a", "out=o"], set()),
    ],
)
def test_on_the_command_line(tmp_path, words, expected):
    file = tmp_path / "two.py"
    file.write_text(
        "import lepton_pipe as lp\n\n\n@lp.pipeline\ndef two(raw: lp.Image, other: lp.Image):\n"
        '    """Add."""\n    return raw + other\n'
    )
    request = parse("run", [str(file), *words])
    assert {n for n, given in request.opening.items() if given.get("sparse")} == expected
    with pytest.raises(UsageError, match="there is no image 'nobody'; there are raw, other"):
        parse("run", [str(file), "raw=a", "--sparse=nobody"])


class _Server(http.server.SimpleHTTPRequestHandler):
    """Serves files; what `broken` names is answered by a status."""

    broken: dict[str, int] = {}  # noqa: RUF012

    def do_GET(self):
        for name, status in self.broken.items():
            if self.path.endswith(name):
                self.send_error(status)
                return
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    class Handler(_Server):
        broken: dict[str, int] = {}  # noqa: RUF012

    handler = partial(Handler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Handler.broken
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "layout", [{}, {"shards": (8, 8)}, {"filters": TURNED}, {"filters": TURNED, "shards": (8, 8)}]
)
def test_a_remote_chunk_that_is_missing_is_refused(tmp_path, served, layout):
    whole = written(tmp_path / "a", **layout)
    address, _ = served
    source = open_source(f"{address}/a")
    np.testing.assert_array_equal(source.read(Region((8, 0), (16, 16))), whole[8:])
    message = refused(source, source.type.grid.region, r"chunk c/(1/2|0/1) is missing.*--sparse")
    assert "[4:8, 8:12]" in message
    sparse = open_source(f"{address}/a", sparse=True)
    np.testing.assert_array_equal(sparse.read(sparse.type.grid.region), whole)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_server_that_fails_is_not_a_missing_chunk(tmp_path, served, status, sparse):
    written(tmp_path / "a")
    address, broken = served
    source = open_source(f"{address}/a", sparse=sparse)
    broken["c/3/3"] = status
    with pytest.raises(RunError, match=f"c/3/3: cannot be fetched .*{status}") as caught:
        source.read(Region((9, 9), (16, 16)))
    assert not isinstance(caught.value, DamagedError)


def test_an_array_that_is_gone_from_its_server_never_reads_as_fill_values(tmp_path, served):
    written(tmp_path / "a")
    source = open_source(f"{served[0]}/a", sparse=True)
    assert source.read(source.type.grid.region).any()
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(DamagedError, match="the array is gone"):
        source.read(source.type.grid.region)
