"""Run the task of one block."""

from lepton_pipe.worker.block import run_block
from lepton_pipe.worker.program import BlockResult, Combine, Program, Readable, Stats, Writable

__all__ = ["BlockResult", "Combine", "Program", "Readable", "Stats", "Writable", "run_block"]
