"""The sum of a file tells it from any other, chunks that carry a checksum too."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_pipe.store.checksums import Checksum, FileSum, crc32c
from lepton_pipe.store.durable import size_and_crc, write_whole


def sealed(data):
    """Return a chunk as it is stored, with its checksum behind it."""
    return data + crc32c(data).to_bytes(4, "little")


def sum_of(data):
    return FileSum.of(data).crc


@given(st.lists(st.binary(max_size=40)))
def test_it_does_not_matter_how_a_file_comes_in_pieces(pieces):
    found = FileSum()
    for piece in pieces:
        found.add(piece)
    whole = b"".join(pieces)
    assert (found.size, found.crc) == (len(whole), sum_of(whole))


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_flipped_bit_changes_the_sum(data, draw):
    stored = draw.draw(st.sampled_from([data, sealed(data)]))
    at = draw.draw(st.integers(0, 8 * len(stored) - 1))
    other = bytearray(stored)
    other[at // 8] ^= 1 << at % 8
    assert sum_of(bytes(other)) != sum_of(stored)


def test_a_sound_chunk_does_not_pass_for_another():
    random = np.random.default_rng(0)
    sums = {sum_of(sealed(random.bytes(100))) for _ in range(1000)}
    assert len(sums) == 1000


@given(st.binary(max_size=200), st.lists(st.binary(max_size=9)), st.lists(st.binary(max_size=9)))
def test_a_chunk_and_its_checksum_sum_up_as_any_other_bytes(chunk, before, after):
    pieces = [*before, chunk, Checksum.of(chunk), *after]
    found = FileSum()
    for piece in pieces:
        found.add(piece)
    assert found.crc == sum_of(b"".join(pieces))
    assert found.size == len(b"".join(pieces))


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_sum_is_that_of_zarr(first, second):
    assert crc32c(first + second) == google_crc32c.value(first + second)
    assert crc32c(second, crc32c(first)) == google_crc32c.value(first + second)


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 1000])
def test_what_is_written_sums_up_to_what_is_read(tmp_path, length):
    data = bytes(range(256)) * 4
    pieces = [data[:length], data[length : length + 2]]
    assert write_whole(tmp_path / "f", pieces) == size_and_crc(tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"".join(pieces)
