"""Break runs for real, and look at what is left: status, message, output, processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

from tests.command import LEPTON, PATIENCE, assert_refused, cleaned, environment, lepton, names
from tests.run.five import fingerprints

USER = Path(__file__).with_name("kernels_of_a_user.py")
STOPS_WITHIN = 120  # however much else the machine does


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with an image of 16 chunks, an older output, and the one that is to be made."""
    folder = tmp_path_factory.mktemp("prepared")
    image = np.random.default_rng(0).integers(0, 60_000, (8, 256, 256)).astype(np.uint16)
    zarr.create_array(str(folder / "raw.zarr"), data=image, chunks=(8, 64, 64))
    for out, fn in (("o", "convert"), ("golden", f"{USER}:run_slow")):
        more = ("--folder", str(folder)) if out == "golden" else ()
        done = lepton("run", fn, "raw=raw.zarr", f"out={out}", "--serial", *more, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(prepared, tmp_path):
    """A copy of the image and the older output."""
    shutil.copytree(prepared / "raw.zarr", tmp_path / "raw.zarr")
    shutil.copytree(prepared / "o", tmp_path / "o")
    return tmp_path


def words(name: str, *more: str) -> list[str]:
    return ["run", f"{USER}:run_{name}", "raw=raw.zarr", "out=o", "--overwrite", *more]


@contextmanager
def unharmed(here):
    """Assert that the older output is what it was, and nothing beside it cannot be cleaned up."""
    beside, before = names(here), fingerprints(here / "o")
    yield
    assert names(here) <= beside | {".o.lepton"}
    assert cleaned(here / "o") == beside
    assert fingerprints(here / "o") == before


MISBEHAVING = {
    "raising": ["raising failed on block", "no luck with this block", "kernels_of_a_user.py"],
    "wrong_dtype": ["wrong_dtype returned float64", "uint16", "dtype="],
    "wrong_shape": ["wrong_shape returned uint16 of shape", "declares"],
    "writes_to_its_input": ["writes_to_its_input", "read-only"],
}


@pytest.mark.parametrize("name", MISBEHAVING)
def test_a_misbehaving_kernel_fails_the_run_with_its_own_words(here, name):
    with unharmed(here):
        result = lepton(*words(name, "--serial"), cwd=here)
    assert result.returncode == 2, result.stderr
    for word in MISBEHAVING[name]:
        assert word in result.stderr, result.stderr
    assert "lepton_pipe/run" not in result.stderr  # no traceback through the engine


def test_a_kernel_that_ends_its_process_fails_the_run(here):
    with unharmed(here):
        result = lepton(*words("dying", "--workers", "2", "--threads", "1"), cwd=here)
    assert result.returncode == 2, result.stderr
    message = result.stderr[result.stderr.index("lepton-pipe: ") :]
    assert "dying" in message
    assert "ended its worker process 3 times, the last time alone" in message
    # Of workers that end at one instant Dask may lose the status; then none is told.
    assert "exit status 7" in message or "exit status" not in message, message
    assert "Traceback" not in result.stderr
    assert "leaked" not in result.stderr  # semaphores of workers that were lost
    assert len(message.splitlines()) == 1, message


class Running:
    """A slow run on Dask, begun and seen to compute."""

    def __init__(self, here, *more, seconds):
        self.blocks = here / "blocks"
        self.blocks.mkdir()
        self.process = subprocess.Popen(
            [*LEPTON, *words("slow", "--folder", str(self.blocks), *map(str, more))],
            cwd=here,
            env=environment(LEPTON_TEST_SECONDS=str(seconds)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.me = psutil.Process(self.process.pid)

    def wait_for_blocks(self, number: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(names(self.blocks)) < number:
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < deadline, "no block was computed"
            time.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        return self.me.children(recursive=True)

    def end(self, seconds: float = STOPS_WITHIN) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def kill(self) -> None:
        for process in [*self.family(), self.me]:
            if process.is_running():
                process.kill()


@pytest.fixture
def running(here):
    started = []

    def start(*more, seconds=0.5):
        started.append(Running(here, *more, seconds=seconds))
        return started[0]

    yield start
    for run in started:
        if run.process.poll() is None:
            run.kill()
            run.process.communicate()


@pytest.mark.parametrize(
    ("number", "status", "more"),
    [
        (signal.SIGINT, 130, ("--workers", "1")),
        (signal.SIGTERM, 143, ("--workers", "1")),
        (signal.SIGINT, 130, ()),
        (signal.SIGTERM, 143, ()),
        (signal.SIGINT, 130, ("--serial",)),
        (signal.SIGTERM, 143, ("--serial",)),
    ],
)
def test_a_signal_stops_the_run_and_leaves_what_is_done(
    here, prepared, running, number, status, more
):
    run = running(*more, seconds=2)  # time to send the signal before the last block begins
    blocks = 4 if "--serial" in more else 8
    run.wait_for_blocks(1)
    family = run.family()
    assert bool(family) == ("--workers" in more)
    if number == signal.SIGINT:  # as a terminal does, to every process of the run
        os.killpg(run.process.pid, number)
    else:
        run.process.send_signal(number)
    code, out, err = run.end()
    assert code == status, err
    assert "nothing was published" in err
    assert "Traceback" not in err, err
    assert out == ""
    assert names(here) <= {"raw.zarr", "o", "blocks", ".o.lepton"}
    assert cleaned(here / "o") == {"raw.zarr", "o", "blocks"}
    assert fingerprints(here / "o") == fingerprints(prepared / "o")
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not alive
    assert len(names(run.blocks)) < blocks


def test_a_second_ctrl_c_does_not_leave_anything_either(here, running):
    run = running("--workers", "1", seconds=2)
    run.wait_for_blocks(2)
    family = run.family()
    os.killpg(run.process.pid, signal.SIGINT)
    time.sleep(0.2)
    if run.process.poll() is None:
        os.killpg(run.process.pid, signal.SIGINT)
    code, _, err = run.end()
    assert code == 130, err
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not alive
    assert names(here) <= {"raw.zarr", "o", "blocks", ".o.lepton"}
    assert cleaned(here / "o") == {"raw.zarr", "o", "blocks"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_costs_time_alone(here, prepared, running, workers):
    run = running("--workers", workers, "--threads", "1")
    run.wait_for_blocks(3)
    pids = {int(name.rpartition(".")[2]) for name in names(run.blocks)}
    psutil.Process(pids.pop()).kill()
    code, _, err = run.end(PATIENCE)
    assert code == 0, err
    assert fingerprints(here / "o") == fingerprints(prepared / "golden")


# -- places that cannot be written to ------------------------------------------------------------


@contextmanager
def mounted(place: Path, *options: str):
    """Mount something at `place`, for a test that runs as root."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.mark.root
@root
@pytest.mark.parametrize(
    "more", [("--serial",), (), ("--workers", "1")], ids=["serial", "threads", "dask"]
)
def test_a_disk_that_runs_full_fails_the_run_and_can_be_cleaned_up(here, more):
    # 1 MiB of noise does not compress: the estimate before the run cannot know that.
    full = here / "full"
    with mounted(full, "-t", "tmpfs", "-o", "size=700k", "tmpfs"):
        result = lepton("run", "convert", "raw=raw.zarr", "out=full/o", *more, cwd=here)
        left = cleaned(full / "o")
        free = os.statvfs(full)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    message = result.stderr[result.stderr.index("lepton-pipe: ") :]
    assert "No space left on device" in message
    assert left == set()
    assert free.f_bavail > 0


@pytest.mark.root
@root
def test_a_disk_without_room_is_refused_before_the_run(here):
    with mounted(here / "small", "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        result = lepton("run", "convert", "raw=raw.zarr", "out=small/o", cwd=here)
        left = names(here / "small")
    assert_refused(result, 4, "64 KiB free", "307 KiB", "make room")
    assert left == set()


@pytest.mark.root
@root
def test_a_place_that_is_read_only_is_refused(here):
    with mounted(here / "ro", "-t", "tmpfs", "-o", "ro", "tmpfs"):
        result = lepton("run", "convert", "raw=raw.zarr", "out=ro/o", "--serial", cwd=here)
    assert result.returncode == 4, result.stderr
    assert "it is protected against writing" in result.stderr
    assert "Traceback" not in result.stderr
