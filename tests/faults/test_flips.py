"""Flip 300 bits of what is kept on the way, and 300 of a result: every one is found."""

from __future__ import annotations

import random
import shutil
import signal

import pytest

from lepton_pipe.errors import LeptonError
from lepton_pipe.geometry import Region
from lepton_pipe.ledger import KNOWN
from lepton_pipe.ledger.journal import Journal
from lepton_pipe.run.hidden import HiddenFolder
from lepton_pipe.run.verify import verify
from lepton_pipe.store import open_source
from lepton_pipe.store.target import ArrayTarget
from tests.command import lepton
from tests.faults.world import World

SERIAL = ("--serial", "--memory", "700MiB")
FLIPS = 300


class Flipped:
    """A file with one bit, chosen by a number, that is another; as it was at the end."""

    def __init__(self, file, number):
        self._file, self._whole = file, file.read_bytes()
        chosen, torn = random.Random(number), bytearray(self._whole)  # noqa: S311
        torn[chosen.randrange(len(torn))] ^= 1 << chosen.randrange(8)
        self._torn = bytes(torn)

    def __enter__(self):
        self._put(self._torn)

    def __exit__(self, *_):
        self._put(self._whole)

    def _put(self, data):
        # By a rename, as all chunks are written: what has been read is not taken for this.
        beside = self._file.with_name("beside")
        beside.write_bytes(data)
        beside.replace(self._file)


def files_of(folder, *patterns):
    return sorted(f for p in patterns for f in folder.glob(p) if f.is_file())


def some(files, number):
    return files[random.Random(number).randrange(len(files))]  # noqa: S311


@pytest.fixture(scope="module")
def result(image_folder, tmp_path_factory):
    """A result."""
    world = World(image_folder, tmp_path_factory.mktemp("result"))
    assert world.run("objects", *SERIAL).returncode == 0
    return world


@pytest.fixture(scope="module")
def stopped(image_folder, tmp_path_factory):
    """The folder of a run that was killed in its last stage: it has all that is kept on the way."""
    world = World(image_folder, tmp_path_factory.mktemp("stopped"))
    done = world.run("hidden", *SERIAL, "--keep", "disk", LEPTON_TEST_KILL_DRIVER=11)
    assert done.returncode == -signal.SIGKILL
    return HiddenFolder(world.out).staged()


def whole(source):
    """Read all of a source."""
    return source.read(Region.whole(source.type.grid.shape))


def test_every_bit_of_what_is_kept_on_the_way(stopped):
    arrays = {
        zarr_json.parent: ArrayTarget(zarr_json.parent, None)
        for zarr_json in files_of(stopped, "scratch/*/zarr.json", "rest/0/zarr.json")
    }
    assert len(arrays) > 1, "nothing is kept between stages alone"
    files = [f for path in arrays for f in files_of(path, "c/**/*")]
    assert files
    for number in range(FLIPS):
        file = some(files, number)
        (array,) = (a for path, a in arrays.items() if path in file.parents)
        with Flipped(file, number), pytest.raises(LeptonError, match=r"checksum|damaged"):
            whole(array.source())


def entries(folder):
    """Return what can be read of a journal, partials and all."""
    journal = Journal(folder)
    return {e.block: (e.key, e.units, journal.partial(e.place, e.block)) for e in journal.new()}


def test_every_bit_of_what_blocks_contributed(stopped):
    files = files_of(stopped, f"{KNOWN}/journal/000/*")
    noted = entries(files[0].parent)
    assert len(noted) > 3
    for number in range(FLIPS):
        with Flipped(some(files, number), number):
            found = entries(files[0].parent)
        assert found.items() < noted.items()  # it is missing, and nothing is wrong


def test_every_bit_of_a_result(result):
    files = [f for f in files_of(result.out, "**/*") if KNOWN not in f.parts]
    for number in range(FLIPS):
        file = some(files, number)
        with Flipped(file, number):
            found = verify(result.out)
        assert found.changed == (file.relative_to(result.out).as_posix(),)
    assert verify(result.out).whole


def test_every_chunk_of_a_result_is_checked_by_who_reads_it(result):
    for name in ("objects", "light"):
        path = result.out / name
        for number, file in enumerate(files_of(path, "0/c/**/*")):
            with Flipped(file, number), pytest.raises(LeptonError, match=r"checksum|damaged"):
                whole(open_source(path))


SPOIL = {
    "flip": lambda file: Flipped(file, 1).__enter__(),
    "delete": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize(("how", "way"), [*((how, "serial") for how in SPOIL), ("flip", "dask")])
def test_what_is_spoilt_between_two_stages(world, golden, how, way):
    words = SERIAL if way == "serial" else ("--workers", "1", "--threads", "1", "--memory", "1GiB")
    want, _ = golden("twice", *words)
    gate = world.blocks / "gate"
    process = world.begin("twice", *words, LEPTON_TEST_GATE_later=gate)
    world.wait_for_blocks(1, process, "later")
    staged = HiddenFolder(world.out).staged()
    SPOIL[how](files_of(staged, "light/0/c/**/*")[-1])
    gate.touch()
    done = world.end(process)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert (world.published() is not None) == (done.returncode == 0)
    world.assert_recovers("twice", *words, golden=want)


@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_that_is_damaged_is_told_of(result, tmp_path, seed):
    """Never a traceback, and never a verdict that is wrong."""
    out = tmp_path / "o"
    shutil.copytree(result.out, out)
    Flipped(out / KNOWN / "ledger.sqlite", seed).__enter__()
    done = lepton("verify", out, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 2, 4)
    assert done.returncode or "whole" in done.stdout
