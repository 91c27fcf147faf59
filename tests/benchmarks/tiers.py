"""What packing makes of the kinds of data that pipelines leave between stages, and at which speed.

``python -m tests.benchmarks.tiers`` packs one chunk of each kind with each codec, on one core, and
writes ``results/tiers.md``. Seconds are those of a core, since other processes may run.
"""

from __future__ import annotations

import time
from pathlib import Path

import numcodecs
import numpy as np
from scipy import ndimage

from lepton_pipe.geometry import Grid
from lepton_pipe.spec import ImageType
from lepton_pipe.store.codecs import chain_of
from lepton_pipe.store.ome import BLOSC_BLOCK, scratch_codecs
from tests.benchmarks import machine

SHAPE = (64, 128, 128)
REPEATS = 5
SHUFFLES = {"bytes": numcodecs.Blosc.SHUFFLE, "bits": numcodecs.Blosc.BITSHUFFLE}
OUT = Path(__file__).parent / "results" / "tiers.md"


def kinds() -> dict[str, tuple[str, np.ndarray]]:
    """Return a chunk of each kind, with the kind as planning knows it."""
    rng = np.random.default_rng(0)
    base = ndimage.gaussian_filter(rng.normal(size=SHAPE), (3, 6, 6))
    base /= base.std()
    labels = ndimage.label(base > 1)[0].astype(np.uint32)
    cells = np.kron(rng.integers(0, 2**20, (8, 8, 8)), np.ones((8, 16, 16))).astype(np.uint32)
    smooth = (1000 + 200 * base).astype(np.float32)
    return {
        "labels, objects apart": ("labels", labels),
        "labels, 64 bit": ("labels", labels.astype(np.uint64)),
        "labels, cell by cell": ("labels", cells),
        "mask": ("mask", base > 1),
        "smooth, float32": ("image", smooth),
        "smooth, uint16": ("image", smooth.astype(np.uint16)),
        "microscopy, uint16": ("image", rng.poisson(np.maximum(smooth, 0)).astype(np.uint16)),
        "noise, uint16": ("image", rng.integers(0, 2**16, SHAPE).astype(np.uint16)),
        "noise, float32": ("image", rng.normal(size=SHAPE).astype(np.float32)),
    }


def coders() -> dict[str, numcodecs.Blosc]:
    """Return the codecs that are compared."""
    return {
        f"{name.upper()}, shuffled {how}": numcodecs.Blosc(name, 1, shuffle, BLOSC_BLOCK)
        for name in ("lz4", "zstd")
        for how, shuffle in SHUFFLES.items()
    }


def best(act) -> tuple[float, object]:
    """Return the shortest time of several, in seconds of a core, and what was made."""
    seconds = []
    for _ in range(REPEATS):
        started = time.thread_time()
        made = act()
        seconds.append(time.thread_time() - started)
    return min(seconds), made


def cell(values: np.ndarray, encode, decode) -> str:
    """Return ratio and speeds."""
    packing, packed = best(lambda: encode(values))
    unpacking, _ = best(lambda: decode(packed))
    size = sum(map(len, packed)) if isinstance(packed, list) else len(packed)
    speeds = (values.nbytes / s / 1e9 for s in (packing, unpacking))
    return f"{values.nbytes / size:.1f} ({', '.join(f'{s:.1f}' for s in speeds)})"


def ours(kind: str, values: np.ndarray) -> str:
    """Return ratio and speeds of what pipelines do, checksum and a look at a sample included."""
    codecs = [c.to_dict() for c in scratch_codecs(_type(kind, values))]
    chain = chain_of(codecs, values.dtype)
    return cell(values, chain.encode_if_it_pays, lambda d: chain.decode(b"".join(d), values.shape))


def _type(kind: str, values: np.ndarray) -> ImageType:
    return ImageType(Grid.of(values.shape), values.dtype, kind)


def report() -> str:
    """Return the table."""
    names = coders()
    rows = ["| | " + " | ".join(names) + " | ours |", "|---" * (len(names) + 2) + "|"]
    for what, (kind, values) in kinds().items():
        cells = [cell(values, c.encode, c.decode) for c in names.values()]
        rows.append(f"| {what} | {' | '.join(cells)} | {ours(kind, values)} |")
    return f"""# Packing what lies between stages

{machine.sentence(machine.facts())}

One chunk of {" x ".join(map(str, SHAPE))} voxels. How many times smaller, and in brackets GB/s
packed and unpacked, of one core (a copy goes at about 13). Blosc blocks of {BLOSC_BLOCK >> 20} MiB.
"Ours" is what pipelines do: LZ4 over shuffled bytes for labels and floats, over packed bits (eight
to a byte) for masks, over shuffled bits for the rest, nothing where a sample hardly gets smaller;
with a checksum, read and written.

{chr(10).join(rows)}
"""


if __name__ == "__main__":
    text = report()
    OUT.write_text(text)
    print(text)
