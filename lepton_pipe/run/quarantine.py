"""What could not be read or computed in a run, gathered stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from lepton_pipe.errors import LeptonError, LostBlockError, without_secrets
from lepton_pipe.geometry import Region
from lepton_pipe.ledger.ledger import Ledger
from lepton_pipe.plan import Stage
from lepton_pipe.report.quarantine import Quarantined
from lepton_pipe.worker import BlockResult, Fault, Lack, OnError, Program, give_up

Parts = Callable[[int], Mapping[str, Any]]


class Quarantine:
    """What a run went past, or what ended it.

    Parameters
    ----------
    on_error
        What is done about blocks that fail.
    ledger
        Where they are noted.

    Attributes
    ----------
    bad
        What of the stored arrays holds the fill value or depends on it, by step.
    left_out
        Voxels that a statistic did not count, by step.
    """

    def __init__(self, on_error: OnError, ledger: Ledger) -> None:
        self.on_error = on_error
        self.bad: dict[str, list[Region]] = {}
        self.left_out: dict[str, int] = {}
        self._ledger = ledger
        self._found: dict[Any, Quarantined] = {}

    def failed(
        self, stage: Stage, program: Program, parts: Parts
    ) -> Callable[[int, BaseException], BlockResult]:
        """Return what is done about a block that has failed for good, see `Work`."""

        def failed(index: int, error: BaseException) -> BlockResult:
            if self.on_error != "fail" and isinstance(error, LostBlockError):
                return give_up(program, index, parts(index), error)
            region = stage.blocks.region(index)
            fault = Fault.of(
                error,
                kind="process" if isinstance(error, LostBlockError) else "block",
                step=stage.name,
                path="",
                region=region,
                stage=stage.name,
                block=index,
            )
            with suppress(LeptonError):  # a full disk, perhaps: what ended the run is told
                self._ledger.quarantine(stage.index, index, _of(fault).to_json())
            raise error

        return failed

    def take(self, stage: Stage, lack: Lack) -> None:
        """Take in what the blocks of a stage lack."""
        for step, boxes in lack.bad.items():
            self.bad.setdefault(step, []).extend(boxes)
        self.left_out |= {s: n for s, n in lack.left_out.items() if n}
        by_block: dict[int, list[Fault]] = {}
        for fault in lack.faults:
            by_block.setdefault(fault.block, []).append(fault)
            known = self._found.get(fault.shown)
            self._found[fault.shown] = (
                known.again(fault.stage, fault.block) if known else _of(fault)
            )
        for block, faults in by_block.items():
            report = _of(faults[0]).to_json()
            if len(faults) > 1:
                report["more"] = len(faults) - 1
            self._ledger.quarantine(stage.index, block, report)

    def __iter__(self) -> Iterator[Quarantined]:
        yield from sorted(self._found.values(), key=lambda q: (q.kind, q.image, q.region))

    def __len__(self) -> int:
        return len(self._found)


def _of(fault: Fault) -> Quarantined:
    region = tuple(zip(fault.region.start, fault.region.stop, strict=True))
    return Quarantined(
        kind=fault.kind,
        image=fault.step,
        path=without_secrets(fault.path),
        region=region,
        error=fault.error,
        traceback=fault.traceback,
        attempts=fault.attempts,
        stage=fault.stage,
        blocks=(fault.block,),
    )
