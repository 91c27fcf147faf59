"""Booleans, eight to a byte: the codec ``packbits`` of zarr's registry of extensions, for zarr.

Masks between stages are stored so: their bits are packed before LZ4 sees them, which is three times
as fast as shuffling them, and reading five times. Chunks of ours are packed by
`lepton_pipe.store.codecs`; this lets zarr-python open, read and write such arrays as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.registry import register_codec

NAME = "packbits"
# Settings for numbers of other widths, and for bytes that tell how many bits are none.
_DEFAULTS: Mapping[str, Any] = {"padding_encoding": "none", "first_bit": None, "last_bit": None}


def packed_bits(values: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return booleans in C order, the first in the lowest bit; zeros fill the last byte."""
    return np.packbits(values.reshape(-1), bitorder="little")


def unpacked_bits(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return what `packed_bits` was given; raise `ValueError` where that is not of `shape`."""
    if packed.size != packed_size(shape):
        raise ValueError(f"{packed.size} bytes cannot be the bits of a chunk of {shape}")
    bits = np.unpackbits(packed, count=prod(shape), bitorder="little")
    return bits.view(np.bool_).reshape(shape)


def packed_size(shape: tuple[int, ...]) -> int:
    """Return the bytes that the bits of a chunk take."""
    return -(-prod(shape) // 8)


def is_plain(codec: Mapping[str, Any]) -> bool:
    """Tell whether what an array's metadata says of a codec of this name is what is done here."""
    settings = codec.get("configuration", {})
    return all(settings.get(name, value) == value for name, value in _DEFAULTS.items())


@dataclass(frozen=True)
class PackBits(ArrayBytesCodec):
    """The codec as zarr-python asks for one."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the codec; raise `ValueError` for settings that are not the default."""
        if not is_plain(data):
            raise ValueError(f"{data} is not known here: packbits has its defaults alone")
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return what stands for the codec in an array's metadata."""
        return {"name": NAME}

    def validate(self, *, dtype: Any, **_: Any) -> None:
        """Refuse what are no booleans."""
        if dtype.to_native_dtype() != np.bool_:
            raise ValueError(f"packbits is for booleans here, not for {dtype}")

    def compute_encoded_size(self, input_byte_length: int, _: Any) -> int:
        """Return the bytes that a chunk takes of so many bytes."""
        return packed_size((input_byte_length,))

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:
        packed = packed_bits(chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_array_like(packed)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        packed = np.frombuffer(chunk_data.to_bytes(), np.uint8)
        values = unpacked_bits(packed, chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(values)


register_codec(NAME, PackBits)
