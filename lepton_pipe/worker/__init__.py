"""Run the task of one block."""

from lepton_pipe.worker.faults import Fault, Lack, OnError
from lepton_pipe.worker.program import (
    CONTENT_KEY,
    BlockResult,
    Combine,
    Program,
    Readable,
    Stats,
    Writable,
)
from lepton_pipe.worker.run import give_up, run_block

__all__ = [
    "CONTENT_KEY",
    "BlockResult",
    "Combine",
    "Fault",
    "Lack",
    "OnError",
    "Program",
    "Readable",
    "Stats",
    "Writable",
    "give_up",
    "run_block",
]
