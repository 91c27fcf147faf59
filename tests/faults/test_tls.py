"""A cluster that talks TLS: certificates from Dask's configuration, and none but theirs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.command import environment

WORDS = ("--serial", "--memory", "700MiB")
CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None,
        memory_limit="2GiB", local_directory=sys.argv[1], protocol="tls://",
    )
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
    cluster.close()
"""


def certified(folder, name):
    """Return the settings of somebody with a certificate of its own, which it alone trusts."""
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    found = {f"{tls}CA_FILE": cert}
    for role in ("SCHEDULER", "WORKER", "CLIENT"):
        found |= {f"{tls}{role}__CERT": cert, f"{tls}{role}__KEY": key}
    return {setting: str(file) for setting, file in found.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for certificates and a cluster."""
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ours(folder):
    """The settings of those who belong to the cluster."""
    return certified(folder, "ours")


@pytest.fixture(scope="module")
def scheduler(folder, ours):
    """The address of a cluster that talks TLS."""
    script = folder / "cluster.py"
    script.write_text(CLUSTER)
    with subprocess.Popen(
        [sys.executable, script, folder],
        env=environment(**ours),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as cluster:
        yield cluster.stdout.readline().strip()
        cluster.stdin.close()


def test_a_run_on_a_cluster_that_talks_tls(world, golden, scheduler, ours):
    assert scheduler.startswith("tls://")
    want, _ = golden("objects", *WORDS)
    address = scheduler.replace("127.0.0.1", "localhost")
    done = world.run("objects", "--scheduler", address, **ours)
    assert done.returncode == 0, done.stderr
    world.assert_golden(want)


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
def test_who_has_no_certificate_of_the_cluster_is_told(world, scheduler, folder, who):
    settings = certified(folder, "strange") if who == "a stranger" else {}
    refused = world.run("objects", "--scheduler", scheduler, **settings)
    assert refused.returncode == 1, refused.stderr
    assert "distributed.comm.tls" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert world.published() is None
