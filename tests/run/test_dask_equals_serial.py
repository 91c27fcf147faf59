"""The same bytes from one process and from any cluster; and what a cluster shows to whom."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr

import lepton_pipe as lp
from lepton_pipe.errors import KernelError, RunError, UsageError
from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.progress import Silent
from lepton_pipe.run.cluster import local_client
from lepton_pipe.run.driver import run_plan
from lepton_pipe.run.executors import SerialExecutor
from lepton_pipe.run.stage_books import StageBooks
from lepton_pipe.store import open_source
from tests.command import PATIENCE, cleaned, environment, names
from tests.run.five import FIVE, bind, chain, fingerprints, picture, pyramid, segment

VOLUME = (9, 61, 70)
TILING = {"z": 4, "y": 17, "x": 23}


def run(pipeline, image, out, *, tiling=TILING, scheduler=None, watcher=None):
    spec, sources = bind(pipeline, image)
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    resources = Resources(2**33, 1, 2, serial=scheduler is None)
    plan = make_plan(spec, inputs, resources, tiling)
    return run_plan(plan, sources, out, watcher=watcher or Silent(), scheduler=scheduler)


@pytest.mark.parametrize("pipeline", FIVE, ids=lambda p: p.name)
def test_dask_publishes_the_bytes_of_the_serial_executor(pipeline, cluster, tmp_path):
    image = picture(VOLUME, "uint16", 7)
    run(pipeline, image, tmp_path / "serial")
    run(pipeline, image, tmp_path / "dask", scheduler=cluster.scheduler.address)
    serial = fingerprints(tmp_path / "serial")
    assert len(serial) > 20
    assert fingerprints(tmp_path / "dask") == serial
    assert names(tmp_path) == {"serial", "dask"}


def test_workers_and_threads_do_not_show_in_the_bytes(cluster, tmp_path):
    image = picture(VOLUME, "float32", 8)
    run(segment, image, tmp_path / "two", scheduler=cluster.scheduler.address)
    with local_client(Resources(2**31, 1, 4), 2**31, tmp_path) as client:
        run(segment, image, tmp_path / "four", scheduler=client.scheduler.address)
    assert fingerprints(tmp_path / "two") == fingerprints(tmp_path / "four")


@lp.kernel(dtype="uint8", scratch=1.0)
def open_journals(image):
    """Return how many files of a journal this process has open."""
    targets = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return np.full(image.shape, sum(t.suffix == ".log" for t in targets), np.uint8)


@lp.pipeline
def looking(raw: lp.Image):
    return {"o": open_journals(raw)}


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_blocks_note_is_closed_where_the_driver_may_be_elsewhere(cluster, tmp_path, elsewhere):
    """A network file system shows on another machine what was closed."""
    scheduler = cluster.scheduler.address if elsewhere else None
    run(looking, picture(VOLUME, "uint8", 9), tmp_path / "o", scheduler=scheduler)
    made = zarr.open_group(str(tmp_path / "o" / "o"), mode="r")["0"][...]
    assert (made > 0).any() == (not elsewhere)


@pytest.mark.parametrize("patience", [0.0, PATIENCE])
def test_notes_that_are_seen_late_are_waited_for_where_they_may_be(tmp_path, monkeypatch, patience):
    recorded, looks = StageBooks._recorded, []

    def late(books):
        looks.append(books)
        return recorded(books) - (len(looks) < 3)

    monkeypatch.setattr(StageBooks, "_recorded", late)
    monkeypatch.setattr(SerialExecutor, "patience", patience)
    with nullcontext() if patience else pytest.raises(RunError, match="known to be written"):
        run(looking, picture(VOLUME, "uint8", 9), tmp_path / "o")
    assert (tmp_path / "o").exists() == bool(patience)


def test_a_run_leaves_nothing_on_the_scheduler(cluster, tmp_path):
    run(segment, picture(VOLUME, "uint8", 9), tmp_path / "o", scheduler=cluster.scheduler.address)
    deadline = time.monotonic() + PATIENCE
    while tasks(cluster) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert tasks(cluster) == []
    assert len(cluster.nthreads()) == 2


def tasks(client):
    return client.run_on_scheduler(lambda dask_scheduler: list(map(str, dask_scheduler.tasks)))


class Looker(Silent):
    """Notes the names of the scheduler's tasks as blocks end."""

    def __init__(self, client):
        self.client, self.seen, self.ticks, self.stages = client, set(), 0, []

    def stage(self, name, blocks):
        self.stages.append((name, blocks))

    def tick(self):
        self.ticks += 1
        self.seen.update(tasks(self.client))


def test_tasks_carry_the_pipelines_words_and_every_block_ticks_once(cluster, tmp_path):
    looker = Looker(cluster)
    image = picture(VOLUME, "uint16", 7)
    run(segment, image, tmp_path / "o", scheduler=cluster.scheduler.address, watcher=looker)
    for word in ("astype", "histogram", "label", "regionprops"):
        assert any(word in key for key in looker.seen), (word, looker.seen)
    assert looker.ticks == sum(blocks for _, blocks in looker.stages)


def test_two_runs_share_a_cluster_at_the_same_time(cluster, tmp_path):
    address = cluster.scheduler.address
    images = [picture(VOLUME, "uint16", seed) for seed in (1, 2)]
    threads = [
        threading.Thread(
            target=run, args=(segment, image, tmp_path / f"both{i}"), kwargs={"scheduler": address}
        )
        for i, image in enumerate(images)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for i, image in enumerate(images):
        run(segment, image, tmp_path / f"alone{i}")
        assert fingerprints(tmp_path / f"both{i}") == fingerprints(tmp_path / f"alone{i}")


def test_everything_listens_on_the_loopback_alone(cluster):
    me = psutil.Process()
    found = []
    for process in [me, *me.children(recursive=True)]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.append(connection.laddr.ip)
    assert len(found) >= 4  # scheduler, dashboard, workers and their nannies
    assert set(found) <= {"127.0.0.1", "::1"}


def test_the_dashboard_answers_and_is_loaded_at_the_first_look_alone(tmp_path):
    look = (
        "import sys, tempfile, urllib.request\n"
        "from pathlib import Path\n"
        "from lepton_pipe.plan import Resources\n"
        "from lepton_pipe.run.cluster import local_client\n"
        "def answer(link):\n"
        "    with urllib.request.urlopen(link, timeout=60) as page:\n"
        "        return page.status, page.url, page.read()\n"
        "if __name__ == '__main__':\n"
        "    folder = Path(tempfile.mkdtemp())\n"
        "    with local_client(Resources(2**31, 1, 1), 2**31, folder) as client:\n"
        "        link = client.dashboard_link\n"
        "        assert link.startswith('http://127.0.0.1:') and link.endswith('/status'), link\n"
        "        assert 'bokeh' not in sys.modules\n"
        "        for at in ('status', 'tasks', '', 'workers', 'status'):\n"
        "            status, url, body = answer(link.replace('status', at))\n"
        "            assert status == 200 and len(body) > 500, (at, status, body)\n"
        "        assert 'bokeh' in sys.modules\n"
    )
    (tmp_path / "look.py").write_text(look)
    done = subprocess.run(
        [sys.executable, "look.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@lp.kernel
def fails_at_the_end(block, place):
    if place.write.stop == place.grid.shape:
        raise ValueError("no luck with this block")
    return block


@lp.pipeline
def unlucky(raw: lp.Image):
    return fails_at_the_end(raw)


@pytest.mark.parametrize("dask", [False, True], ids=["serial", "dask"])
def test_a_kernel_that_raises_fails_the_run_and_publishes_nothing(dask, cluster, tmp_path):
    scheduler = cluster.scheduler.address if dask else None
    with pytest.raises(KernelError) as caught:
        run(unlucky, picture(VOLUME, "uint16", 1), tmp_path / "o", scheduler=scheduler)
    told = str(caught.value)
    for word in ("fails_at_the_end", "no luck with this block", "ValueError", "return fails_at_th"):
        assert word in told
    assert "if place.write.stop" not in told  # the line before the one that raised
    assert 'raise ValueError("no luck' in told
    assert cleaned(tmp_path / "o") == set()
    if dask:  # the cluster goes on
        run(pyramid, picture(VOLUME, "uint16", 1), tmp_path / "next", scheduler=scheduler)


def test_scratch_of_every_stage_is_gone_from_the_output(cluster, tmp_path):
    run(chain, picture(VOLUME, "uint16", 4), tmp_path / "o", scheduler=cluster.scheduler.address)
    assert names(tmp_path / "o") == {
        ".lepton",
        "bright",
        "chained",
        "lepton.json",
        "peaks.parquet",
        "values.json",
    }
    assert not list((tmp_path / "o").rglob("*.partial"))


def test_an_array_in_memory_travels_to_the_cluster(cluster, tmp_path):
    image = picture(VOLUME, "float32", 5)
    run(pyramid, image, tmp_path / "o", scheduler=cluster.scheduler.address)
    source = open_source(tmp_path / "o" / "image")
    np.testing.assert_array_equal(source.read(source.type.grid.region), image)


def test_a_cluster_without_workers_is_refused(tmp_path):
    with local_client(Resources(2**31, 1, 1), 2**31, tmp_path / "w") as client:
        client.cluster.scale(0)
        deadline = time.monotonic() + PATIENCE
        while client.nthreads() and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(UsageError, match="no workers"):
            run(
                pyramid,
                picture(VOLUME, "uint8", 5),
                tmp_path / "o",
                scheduler=client.scheduler.address,
            )
    assert names(tmp_path) <= {"w"}
