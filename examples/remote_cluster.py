"""Run on a Dask cluster that is already there, by the address of its scheduler.

Run it with ``python remote_cluster.py``. Here the cluster is started on this machine, for the
sake of the example; one made by ``dask-jobqueue`` on SLURM, by Kubernetes or by ``dask scheduler``
and ``dask worker`` on several machines is used in the same way. Its workers need

* the same versions of Python and lepton_pipe, and
* the same file system: inputs and the output must have the same paths there as here.

On the command line the address is given by ``--scheduler tls://host:8786``. A cluster on a network
without encryption, ``tcp://``, is used with ``--insecure`` alone: whoever shares the network could
run code as you.
"""

import numpy as np
import tifffile
from distributed import LocalCluster
from skimage import data

import lepton_pipe as lp
from lepton_pipe.pipelines.galaxies import galaxies


def main() -> None:
    picture = np.moveaxis(data.hubble_deep_field(), -1, 0)  # (c, y, x)
    tifffile.imwrite("sky.tif", picture, metadata={"axes": "CYX"})

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        plan = galaxies.plan(
            raw="sky.tif",
            out="sky.zarr",
            memory="2GiB",
            scheduler=cluster.scheduler_address,
            overwrite=True,
        )
        report = plan.run()
    print(report)

    # It does not matter where a pipeline ran: the labels are those of the whole array in memory.
    labels = lp.open_image(report.path("objects"))
    in_memory = galaxies(lp.open_image("sky.tif"))
    assert (labels.read(labels.type.grid.region) == in_memory["objects"]).all()
    print(f"{in_memory['objects'].max()} galaxies and stars, and the same labels as in memory")


if __name__ == "__main__":
    main()
