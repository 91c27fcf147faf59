"""Chains of codecs simple enough to run without zarr: bytes, one compressor, a checksum.

All arrays of our own are stored so, and most others. It is the fast path: no event loop, no fill
of a chunk that is overwritten, no copy to append four bytes. And it is the safe one: what is
unpacked goes to memory of the chunk's size, whatever a header says. What is not understood here is
left to zarr-python, which knows every codec.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numcodecs
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec

# zarr's Blosc codec also switches off Blosc's own threads, in which bytes come in any order.
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from lepton_pipe.errors import InputError
from lepton_pipe.store.checksums import Bytes, Checksum
from lepton_pipe.store.packbits import NAME as PACKBITS
from lepton_pipe.store.packbits import is_plain, packed_bits, packed_size, unpacked_bits
from lepton_pipe.store.unpack import MOST, UNPACKERS

CRC_BYTES = 4
# Of noise LZ4 saves a tenth, at a twentieth of the speed of a copy; see tests/benchmarks/tiers.py.
_WORTH_PACKING = 1.2
_SAMPLES, _SAMPLE_BYTES = 8, 1 << 13
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_SHUFFLE_NAMES: dict[int, Any] = {number: name for name, number in _SHUFFLES.items()}
_WORDS = (1, 2, 4, 8)
_EXECUTED = ("pickle", "dill", "joblib")
_WRITTEN = ("none", "blosc", "zstd")
_BLOSC_SIZES = struct.Struct("<4xI4xI")


@dataclass(frozen=True)
class Chain:
    """How a chunk becomes bytes: C order, one compressor, perhaps a checksum behind it.

    Attributes
    ----------
    dtype
        As it is stored, byte order included.
    compressor
        What packs the bytes of the chunk: "none", "blosc", or one of `UNPACKERS`.
    encoder
        The compressor with its settings; None where chunks are not compressed, or only read.
    word
        Bytes of the items that the compressor is told of; Blosc shuffles by it.
    checksum
        Whether a crc32c follows.
    bits
        Whether what the compressor is given are booleans, eight to a byte.
    """

    dtype: np.dtype[Any]
    compressor: str
    encoder: Any
    word: int
    checksum: bool
    bits: bool = False

    @property
    def writable(self) -> bool:
        """Whether chunks can be encoded so here."""
        return self.compressor in _WRITTEN

    def checked_codecs(self) -> tuple[BytesBytesCodec, ...]:
        """Return the compressor and a checksum as codecs of zarr v3, whatever the array was."""
        coder = self.encoder
        if self.compressor == "none":
            return (Crc32cCodec(),)
        if self.compressor == "zstd":
            return ZstdCodec(level=coder.level, checksum=coder.checksum), Crc32cCodec()
        automatic = "shuffle" if self.word > 1 else "bitshuffle"
        blosc = BloscCodec(
            typesize=self.word,
            cname=coder.cname,
            clevel=coder.clevel,
            shuffle=_SHUFFLE_NAMES.get(coder.shuffle, automatic),
            blocksize=coder.blocksize,
        )
        return blosc, Crc32cCodec()

    def encode(self, chunk: NDArray[Any]) -> list[Bytes]:
        """Return the pieces that, one after the other, store a chunk.

        Parameters
        ----------
        chunk
            C-contiguous.
        """
        return self._packed(self._words(chunk), self.encoder)

    def encode_if_it_pays(self, chunk: NDArray[Any]) -> list[Bytes]:
        """Return a chunk as `encode` does, not packed if a sample of it hardly gets smaller.

        The sample depends on the voxels alone, so the bytes are the same every time.
        """
        words, coder = self._words(chunk), self.encoder
        if self.compressor == "blosc" and not _shrinks(coder, words):
            coder = numcodecs.Blosc(coder.cname, 0, coder.shuffle, coder.blocksize)
        return self._packed(words, coder)

    def _words(self, chunk: NDArray[Any]) -> NDArray[Any]:
        """Return the items of a chunk as the compressor is to see them."""
        stored = np.asarray(chunk, self.dtype, order="C").reshape(-1)
        return packed_bits(stored) if self.bits else stored.view(f"u{self.word}")

    def _packed(self, words: NDArray[Any], coder: Any) -> list[Bytes]:
        packed = words.view(np.uint8).data if coder is None else coder.encode(words)
        return [packed, Checksum.of(packed)] if self.checksum else [packed]

    def decode(self, data: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the chunk stored as `data`; read-only, in the stored byte order.

        Raises
        ------
        ValueError, RuntimeError
            When the bytes do not match their checksum, or do not decode to a chunk of `shape`.
        """
        size = packed_size(shape) if self.bits else math.prod(shape) * self.dtype.itemsize
        values = self._unpacked(self._body(data), size)
        chunk = unpacked_bits(values, shape) if self.bits else values.view(self.dtype)
        chunk.flags.writeable = False
        return chunk.reshape(shape)

    def _unpacked(self, body: memoryview, size: int) -> NDArray[np.uint8]:
        """Return the bytes that were given to the compressor."""
        if self.compressor == "none":
            _check_size(len(body), size)
            return np.frombuffer(body, np.uint8)
        if self.compressor == "blosc":
            _check_blosc(body, size)
        _check_possible(self.compressor, len(body), size)
        out = np.empty(size, np.uint8)
        self._unpack(body, out)
        return out

    def decode_into(self, data: Bytes, out: NDArray[Any]) -> None:
        """Decode the chunk stored as `data` into `out`, with no copy in between where that can be.

        Parameters
        ----------
        out
            C-contiguous, of the chunk's shape; what it holds after an error is undefined.

        Raises
        ------
        ValueError, RuntimeError
            As `decode`.
        """
        if self.compressor == "none" or self.bits or out.dtype != self.dtype:
            out[...] = self.decode(data, out.shape)
        else:
            self._unpack(self._body(data), out.reshape(-1).view(np.uint8))

    def _body(self, data: Bytes) -> memoryview:
        body = memoryview(data)
        return without_crc32c(body) if self.checksum else body

    def _unpack(self, body: memoryview, out: NDArray[np.uint8]) -> None:
        """Fill `out`, the bytes of a chunk, with what is packed in `body`."""
        if self.compressor == "blosc":
            _check_blosc(body, out.nbytes)
            numcodecs.blosc.decompress(body, out)
        else:
            _check_size(UNPACKERS[self.compressor](body, out), out.nbytes)


def _shrinks(coder: Any, values: NDArray[Any]) -> bool:
    """Tell whether pieces from all over a chunk get so much smaller that packing pays."""
    length = _SAMPLE_BYTES // values.itemsize
    if values.size <= _SAMPLES * length:
        return True
    step = (values.size - length) // (_SAMPLES - 1)
    pieces = np.concatenate([values[i * step : i * step + length] for i in range(_SAMPLES)])
    return bool(len(coder.encode(pieces)) * _WORTH_PACKING < pieces.nbytes)


def _check_size(found: int, size: int) -> None:
    if found != size:
        raise ValueError(f"a chunk holds {found} bytes where {size} belong")


def _check_possible(compressor: str, packed: int, size: int) -> None:
    """Take no memory for a chunk that cannot be in so few bytes."""
    if compressor in MOST and size > MOST[compressor] * packed:
        raise ValueError(f"{packed} bytes of {compressor} cannot hold a chunk of {size} bytes")


def _check_blosc(body: memoryview, size: int) -> None:
    """Believe the sizes in a header only after a look: they decide how much memory is touched."""
    if len(body) < 16 or _BLOSC_SIZES.unpack_from(body) != (size, len(body)):
        raise ValueError(f"a chunk of {len(body)} bytes has a Blosc header that lies")


def without_crc32c(data: memoryview) -> memoryview:
    """Return `data` without the checksum at its end; raise `ValueError` when that is wrong."""
    body, stored = data[:-CRC_BYTES], bytes(data[-CRC_BYTES:])
    if len(data) < CRC_BYTES or Checksum.of(body) != stored:
        raise ValueError(f"stored and computed checksum do not match ({len(data)} bytes)")
    return body


def chain_of(codecs: Sequence[Mapping[str, Any]], dtype: np.dtype[Any]) -> Chain | None:
    """Return the chain for a zarr v3 list of codecs, or None where that is not so simple."""
    names = [str(codec.get("name")) for codec in codecs]
    checksum = names[-1:] == ["crc32c"]
    middle = names[1 : len(names) - checksum]
    bits = names[:1] == [PACKBITS] and dtype == np.bool_ and is_plain(codecs[0])
    if (names[:1] != ["bytes"] and not bits) or len(middle) > 1 or dtype.kind not in "buif":
        return None
    endian = codecs[0].get("configuration", {}).get("endian")
    stored = dtype.newbyteorder(">" if endian == "big" else "<")
    if not middle:
        return Chain(stored, "none", None, 1, checksum, bits)
    settings = codecs[1].get("configuration", {})
    if middle == ["blosc"] and settings.get("typesize") in _WORDS:
        return Chain(stored, "blosc", _blosc(settings), settings["typesize"], checksum, bits)
    if middle == ["zstd"]:
        return Chain(stored, "zstd", _zstd(settings), 1, checksum, bits)
    name = middle[0].removeprefix("numcodecs.")
    return Chain(stored, name, None, 1, checksum, bits) if name in UNPACKERS else None


def chain_of_v2(facts: Mapping[str, Any], dtype: np.dtype[Any]) -> Chain | None:
    """Return the chain for the metadata of a zarr v2 array, or None where that is not so simple."""
    if facts.get("filters") or facts.get("order") != "C" or dtype.kind not in "buif":
        return None
    compressor = facts.get("compressor")
    if compressor is None:
        return Chain(dtype, "none", None, 1, checksum=False)
    name = compressor.get("id")
    if name not in UNPACKERS and name != "blosc":
        return None
    word = dtype.itemsize if dtype.itemsize in _WORDS else 1
    encoder = numcodecs.get_codec(dict(compressor)) if name in _WRITTEN else None
    return Chain(dtype, name, encoder, word, checksum=False)


def check_codecs(facts: Mapping[str, Any], where: str) -> None:
    """Raise `InputError` when an array's metadata asks for a codec that executes what it reads.

    zarr-python would hand the bytes of such a chunk to `pickle`.
    """
    codecs = [*(facts.get("filters") or ()), facts.get("compressor"), *(facts.get("codecs") or ())]
    names = (str(c.get("id") or c.get("name")) for c in codecs if isinstance(c, Mapping))
    for name in names:
        if any(word in name.lower() for word in _EXECUTED):
            raise InputError(
                f"{where}: its chunks are stored by the codec {name!r}, which executes what it "
                "reads; nothing is read from it: store the image anew as plain numbers"
            )


def _blosc(settings: Mapping[str, Any]) -> Any:
    return numcodecs.Blosc(
        cname=settings["cname"],
        clevel=settings["clevel"],
        shuffle=_SHUFFLES[settings["shuffle"]],
        blocksize=settings["blocksize"],
    )


def _zstd(settings: Mapping[str, Any]) -> Any:
    return numcodecs.Zstd(level=settings["level"], checksum=settings.get("checksum", False))
