"""Chunks that are kept in memory read as their files would, and every flipped bit is found."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lepton_pipe.cache.uses import Held
from lepton_pipe.errors import DamagedError, RunError
from lepton_pipe.geometry import Grid, Region
from lepton_pipe.spec import ImageType
from lepton_pipe.store.durable import size_and_crc
from lepton_pipe.store.held import shared, sums
from lepton_pipe.store.ome import create_scratch
from lepton_pipe.store.target import ArrayTarget

SHAPE, CHUNKS = (40, 48, 56), (16, 16, 16)
FLIPS = 300


def labels():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 2**31, (5, 6, 7)), np.ones((8, 8, 8))).astype(np.uint32)


@pytest.fixture
def run(tmp_path):
    """The folder of a run with room for all of its records."""
    name = f"{tmp_path}/"
    yield lambda budget, stage=0: shared.retain(
        Held(name, stage, budget, {str(tmp_path / "a"): ()})
    )
    shared.clear(name)


def target(tmp_path, place, values, kind="labels", chunks=CHUNKS):
    type_ = ImageType(Grid.of(values.shape), values.dtype, kind)
    create_scratch(tmp_path / "a", type_, chunks)
    return ArrayTarget(tmp_path / "a", None, place)


def whole(made):
    return Region.whole(made.shape)


def files(tmp_path):
    return sorted(f for f in (tmp_path / "a" / "c").rglob("*") if f.is_file())


@pytest.mark.parametrize("place", ["disk", "memory", "both"])
@pytest.mark.parametrize("budget", [0, 20_000, 10**9])
def test_what_is_read_is_what_was_written_wherever_it_lies(tmp_path, run, place, budget):
    made = labels()
    run(budget)
    into = target(tmp_path, place, made)
    into.write(whole(made), made)
    assert (into.source().read(whole(made)) == made).all()
    part = Region((3, 5, 7), (39, 20, 56))
    assert (into.source().read(part) == made[part.slices]).all()


def test_a_record_is_the_file_that_would_have_been_written(tmp_path, run):
    made = labels()
    run(10**9)
    into = target(tmp_path, "memory", made)
    noted = into.write(whole(made), made)
    assert files(tmp_path) == []
    names = [f"{tmp_path}/a/c/{z}/{y}/{x}" for z, y, x in np.ndindex(3, 3, 4)]
    held = sums(names)
    assert [held[n] for n in names] == [(w.size, w.crc) for w in noted]
    run(0, 1)  # all of them have to go
    assert sums(names) == {}
    assert [size_and_crc(f) for f in files(tmp_path)] == [
        (w.size, w.crc) for _, w in sorted(zip(names, noted, strict=True))
    ]
    assert (into.source().read(whole(made)) == made).all()


def flip(pieces, number):
    """Return the pieces of a record with one bit, chosen by a number, that is another."""
    data, chosen = bytearray(b"".join(pieces)), random.Random(number)  # noqa: S311
    data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    return (bytes(data),)


def test_every_bit_of_what_is_kept_in_memory(tmp_path, run):
    made = labels()
    run(10**9)
    into = target(tmp_path, "memory", made)
    into.write(whole(made), made)
    source = into.source()
    records = [shared._records[n] for n in sorted(shared._records) if n.startswith(str(tmp_path))]
    assert len(records) == 36
    for number in range(FLIPS):
        record = records[number % len(records)]
        sound, record.pieces = record.pieces, flip(record.pieces, number)
        with pytest.raises(DamagedError, match="checksum"):
            source.read(whole(made))
        record.pieces = sound
    assert (source.read(whole(made)) == made).all()


def test_every_bit_of_what_was_spilled(tmp_path, run):
    made = labels()
    run(0)
    into = target(tmp_path, "memory", made)
    into.write(whole(made), made)
    source, spilled = into.source(), files(tmp_path)
    assert len(spilled) == 36
    for number in range(FLIPS):
        file = spilled[number % len(spilled)]
        sound = file.read_bytes()
        file.write_bytes(flip((sound,), number)[0])
        with pytest.raises(DamagedError, match="checksum"):
            source.read(whole(made))
        file.write_bytes(sound)
    assert (source.read(whole(made)) == made).all()


def test_a_record_that_is_gone_is_told_of(tmp_path, run):
    made = labels()
    run(0)
    into = target(tmp_path, "memory", made)
    into.write(whole(made), made)
    files(tmp_path)[5].unlink()
    with pytest.raises(DamagedError):
        into.source().read(whole(made))


def test_what_is_stored_as_well_fails_where_the_disk_does(tmp_path, run):
    made = labels()
    run(10**9)
    into = target(tmp_path, "both", made)
    (tmp_path / "a" / "c").write_text("no folder")
    with pytest.raises(RunError):
        into.write(whole(made), made)


def packed(tmp_path, values, kind):
    """Return how much smaller chunks of some kind get."""
    into = target(tmp_path, "disk", values, kind, (64, 64, 64))
    written = into.write(whole(values), values)
    assert (into.source().read(whole(values)) == values).all()
    return values.nbytes / sum(w.size for w in written)


def test_noise_is_not_packed_and_labels_are(tmp_path):
    rng, shape = np.random.default_rng(0), (64, 128, 128)
    (tmp_path / "n").mkdir()
    (tmp_path / "l").mkdir()
    noise = rng.integers(0, 2**16, shape, np.uint16)
    objects = np.kron(rng.integers(0, 2**31, (8, 16, 16)), np.ones((8, 8, 8))).astype(np.uint32)
    assert 0.99 < packed(tmp_path / "n", noise, "image") <= 1.0
    assert packed(tmp_path / "l", objects, "labels") > 10
