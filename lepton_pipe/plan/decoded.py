"""What blocks leave of the memory holds decoded chunks, so that they are not decoded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lepton_pipe.plan.model import InputInfo, Read, Stage, StoredArray
from lepton_pipe.plan.rates import Rates
from lepton_pipe.plan.regions import for_image
from lepton_pipe.plan.reuse import Cached
from lepton_pipe.plan.traffic import Decoding, decoding
from lepton_pipe.spec import Spec


@dataclass
class Decoded:
    """Shares what is left for decoded chunks among the images that a stage reads."""

    spec: Spec
    arrays: Mapping[str, StoredArray]
    inputs: Mapping[str, InputInfo]
    rates: Rates
    _found: dict[tuple[object, ...], Decoding] = field(default_factory=dict)

    def kept_by(self, stage: Stage, left: int) -> Stage:
        """Return a stage with the chunks that it keeps of `left` bytes, and what it decodes."""
        cached = self._cached(stage, left)
        decoded = sum(d.decoded(c) for d, c in cached)
        kept = sum(d.chunk_bytes * c.chunks for d, c in cached)
        estimate = replace(stage.estimate, bytes_decoded=decoded)
        return replace(stage, estimate=estimate, cache_bytes=kept)

    def seconds(self, stage: Stage, left: int) -> float:
        """Return the core seconds for decoding, with `left` bytes for what is decoded."""
        return sum(
            d.decoded(c) * self._ns(read) / 1e9
            for read, (d, c) in zip(stage.reads, self._cached(stage, left), strict=True)
        )

    def _cached(self, stage: Stage, left: int) -> Sequence[tuple[Decoding, Cached]]:
        found = []
        for read in stage.reads:
            each = self._decoding(stage, read)
            cached = each.within(left)
            left -= cached.chunks * each.chunk_bytes
            found.append((each, cached))
        return found

    def _decoding(self, stage: Stage, read: Read) -> Decoding:
        """Return how often the chunks of an image are decoded; found once for all budgets."""
        stage = for_image(self.spec, stage, read.step)
        where = (stage.grid.shape, stage.block, stage.order, stage.sweep)
        key = (read, *where, stage.steps, stage.reduces, stage.writes)
        found = self._found.get(key)
        if found is None:
            found = decoding(self.spec, stage, read, self.arrays, self.inputs)
            self._found[key] = found
        return found

    def _ns(self, read: Read) -> float:
        """Return what a byte takes; an intermediate image is faster to unpack than a result."""
        scratch = read.array is not None and not self.arrays[read.array].output
        return self.rates.load_ns if scratch else self.rates.decode_ns
