"""A place where runs are broken, and what must hold whatever broke them."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from lepton_pipe.run.verify import verify
from tests.command import LEPTON, PATIENCE, environment, names
from tests.faults.forked import Begun
from tests.run.five import fingerprints

Process = subprocess.Popen[str] | Begun
USER = Path(__file__).with_name("pipelines_of_a_user.py")


class World:
    """An output that does not exist yet, beside an image; every start of a block is counted.

    Parameters
    ----------
    image_folder
        Holds the image, ``raw.zarr``.
    folder
        Empty; holds ``o``, the output.
    notes
        Holds the count; by default ``blocks`` beside the output.

    Attributes
    ----------
    previous
        What is published when a run begins: see `publish_another`.
    fresh
        Whether to fork nothing.
    """

    def __init__(self, image_folder: Path, folder: Path, notes: Path | None = None) -> None:
        self.image, self.folder = image_folder / "raw.zarr", folder
        self.out, self.blocks = folder / "o", notes or folder / "blocks"
        self.blocks.mkdir()
        self.previous: dict[str, str] | None = None
        self.fresh = False
        self._begun: list[Process] = []

    def begin(
        self, pipeline: str, *words: object, under: tuple[object, ...] = (), **env: object
    ) -> Process:
        """Begin a run of one of the user's pipelines, as a process of its own.

        One that needs no other processes is forked: that saves the second that loading takes.

        Parameters
        ----------
        under
            A command that runs it, such as strace.
        """
        more = ("--overwrite",) if self.previous else ()
        run = ("run", f"{USER}:{pipeline}", f"raw={self.image}", f"out={self.out}", *words, *more)
        added = {"LEPTON_TEST_BLOCKS": str(self.blocks)} | {n: str(v) for n, v in env.items()}
        if under or {"--workers", "--scheduler"} & set(words) or self.fresh:
            process = self._spawned([*map(str, (*under, *LEPTON, *run))], added)
        else:
            process = Begun([*map(str, run)], added, self.blocks)
        (self.blocks / "driver").write_text(str(process.pid))
        self._begun.append(process)
        return process

    def _spawned(self, words: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words,
            cwd=self.blocks,
            env=environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, pipeline: str, *words: object, seconds: float = PATIENCE, **more: object):
        """Run to the end, which must come within a deadline."""
        return self.end(self.begin(pipeline, *words, **more), seconds)

    def end(self, process: Process, seconds: float = PATIENCE):
        """Wait for the end of a run, which must come within a deadline."""
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"no end within {seconds} s") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def stop(self) -> None:
        """End what a test that failed has left running."""
        for process in self._begun:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def publish_another(self, pipeline: str, *words: object) -> None:
        """Publish what another parameter gives: the version that later runs replace."""
        done = self.run(pipeline, *words, "--plus", "7")
        assert done.returncode == 0, done.stderr
        self.previous = self.published()
        (self.blocks / "started").unlink()

    def started(self) -> list[str]:
        """Return the blocks that were started, in order."""
        file = self.blocks / "started"
        return file.read_text().splitlines() if file.is_file() else []

    def wait_for_blocks(self, number: int, process: Process, kernel: str = "") -> None:
        """Wait until so many blocks were started, of one kernel or any, by a run that goes on."""
        deadline = time.monotonic() + PATIENCE
        while sum(line.startswith(kernel) for line in self.started()) < number:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "no such block was started"
            time.sleep(0.01)

    def published(self) -> dict[str, str] | None:
        """Return the sha256 of every published file; None where nothing is."""
        return fingerprints(self.out) if self.out.is_dir() else None

    def assert_recovers(
        self,
        pipeline: str,
        *words: object,
        golden: dict[str, str],
        redone: int | None = None,
    ) -> None:
        """Assert what must hold after any fault.

        The output is absent, the previous version, or the new one; a plain run mends it; and
        nothing is left beside it.

        Parameters
        ----------
        golden
            What an undisturbed run publishes.
        redone
            Blocks that may be started again: those in flight.
        """
        published, before = self.published(), self.started()
        assert published in (None, self.previous, golden)
        if published != golden:
            again = self.run(pipeline, *words)
            assert again.returncode == 0, again.stderr
        self.assert_golden(golden)
        after = self.started()
        if redone is not None:
            assert len(after) - len(set(after)) <= redone, after[len(before) :]

    def assert_golden(self, golden: dict[str, str]) -> None:
        """Assert that what is published is whole, and nothing is left beside it."""
        assert self.published() == golden
        found = verify(self.out)
        assert found.whole and not (found.leftover or found.extra), found
        assert names(self.folder) - {self.blocks.name} == {"o"}
