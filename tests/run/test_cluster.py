"""A cluster whose workers are being replaced."""

from __future__ import annotations

from tests.command import PATIENCE, python

CLOSED_AS_A_WORKER_RESTARTS = """
import os, signal, time
from pathlib import Path
from distributed.core import Status
from distributed.nanny import WorkerProcess
from lepton_pipe.plan import Resources
from lepton_pipe.run.cluster import local_client

def lose(client):
    workers = client.cluster.scheduler.workers
    while not workers:
        time.sleep(0.01)
    [(address, pid)] = client.run(os.getpid).items()
    os.kill(pid, signal.SIGKILL)
    while address in workers:
        time.sleep(0.01)

WorkerProcess._init_msg_interval = 0.5  # a nanny on a busy machine hears late of its worker
with local_client(Resources(2**31, 1, 1), 2**31, Path.cwd()) as client:
    [nanny] = client.cluster.workers.values()
    lose(client)
    lose(client)  # before its nanny has heard of it
    # Now the nanny takes the process that starts for the one that runs.
    while nanny.process.status != Status.running and not client.cluster.scheduler.workers:
        time.sleep(0.01)
"""


def test_a_cluster_is_closed_in_silence_while_a_worker_is_replaced(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CLOSED_AS_A_WORKER_RESTARTS)
    done = python(script, cwd=tmp_path, seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


CLOSED_DURING_A_HEARTBEAT = """
import asyncio
from pathlib import Path
from distributed.core import Status
from tornado.ioloop import PeriodicCallback
from lepton_pipe.plan import Resources
from lepton_pipe.run.cluster import local_client

def beat_late(dask_worker):
    async def beat():
        while dask_worker.rpc.status != Status.closed:
            await asyncio.sleep(0.001)
        print("a late heartbeat", flush=True)
        raise RuntimeError("ConnectionPool is closed")

    dask_worker.loop.add_callback(PeriodicCallback(beat, 1).start)

with local_client(Resources(2**31, 1, 1), 2**31, Path.cwd()) as client:
    client.run(beat_late)
"""


def test_a_cluster_is_closed_in_silence_while_a_worker_tells_that_it_lives(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CLOSED_DURING_A_HEARTBEAT)
    done = python(script, cwd=tmp_path, seconds=240)
    assert done.returncode == 0, done.stderr
    assert "a late heartbeat" in done.stdout
    assert done.stderr == ""


ITS_WORKER_IS_GONE_FOR_GOOD = """
import os, time
from pathlib import Path
from lepton_pipe.plan import Resources
from lepton_pipe.run import mending
from lepton_pipe.run.cluster import local_client
from lepton_pipe.run.workers import Workers

def given_up(cluster, nanny):
    cluster.sync(nanny.close)

def forgotten(cluster, nanny):
    given_up(cluster, cluster.workers.pop(0))

def stuck(cluster, nanny):
    nanny._on_worker_exit_sync = nanny.process.on_exit = lambda exitcode: None
    os.kill(nanny.pid, 9)

with local_client(Resources(2**31, 1, 1), 2**31, Path.cwd()) as client:
    workers, cluster = Workers(client), client.cluster
    for lose, patience in ((given_up, 60), (forgotten, 60), (stuck, 5)):
        mending.MISSING_SECONDS = patience
        pid = client.submit(os.getpid, pure=False).result()
        deadline = time.monotonic() + 60
        while 0 not in cluster.workers and time.monotonic() < deadline:
            time.sleep(0.01)  # a worker may be heard of before it is in its place
        lose(cluster, cluster.workers[0])
        while cluster.scheduler.workers:
            time.sleep(0.01)
        deadline = time.monotonic() + 60
        while not cluster.scheduler.workers and time.monotonic() < deadline:
            workers.mend(1)
            time.sleep(0.1)
        assert client.submit(os.getpid, pure=False).result(timeout=60) != pid, lose
"""


def test_a_worker_is_started_where_the_last_is_gone_for_good(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ITS_WORKER_IS_GONE_FOR_GOOD)
    done = python(script, cwd=tmp_path, seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


ITS_WORKERS_NEVER_START = """
import multiprocessing, sys, types
from pathlib import Path
from lepton_pipe.errors import StalledError
from lepton_pipe.plan import Resources
from lepton_pipe.run import cluster

Path("stuck.py").write_text("import time; time.sleep(300)")
cluster.worker_setup = types.SimpleNamespace(__name__="stuck.py")
cluster.START_SECONDS = 4
try:
    with cluster.local_client(Resources(2**31, 2, 1), 2**31, Path.cwd()):
        pass
except StalledError as error:
    print(error)
print(multiprocessing.active_children())
"""


def test_workers_that_never_start_have_a_deadline(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ITS_WORKERS_NEVER_START)
    done = python(script, cwd=tmp_path, seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    said, left = done.stdout.splitlines()
    assert "did not start within 4 s" in said
    assert left == "[]"
    assert done.stderr == ""
