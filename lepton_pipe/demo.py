"""``lepton-pipe demo``: a real pipeline on a real picture, with nothing prepared."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

from lepton_pipe.catalogue import find_pipeline
from lepton_pipe.flags import Parser

PICTURE = "hubble_deep_field.jpg"


def run_demo(argv: list[str]) -> int:
    """Find the galaxies of the Hubble deep field.

    The picture (NASA, public domain) ships with scikit-image.
    """
    parser = Parser(
        prog="lepton-pipe demo", description="Find the galaxies in a picture by Hubble."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("lepton-demo.zarr"), help="default %(default)s"
    )
    out: Path = parser.parse_args(argv).out

    pipeline = find_pipeline("galaxies")
    picture = Path(str(files("skimage.data") / PICTURE))
    print("Finding the galaxies of the Hubble deep field (872 x 1000 pixels).\n")
    sys.stdout.flush()
    # The demo owns its output: a second one replaces the first.
    plan = pipeline.plan(raw=picture, out=out, overwrite=True)
    print(plan, flush=True)
    report = plan.run(progress=True)
    _show(out)
    print(f"\n{report}")
    print(_advice(out))
    return 0


def _show(out: Path) -> None:
    from lepton_pipe.report.overview import write_overview

    write_overview(_overview(out), out / "light", out / "objects")


def _overview(out: Path) -> Path:
    """Return the place of the picture: beside the result, in which nothing is but what it says."""
    return out.with_name(f"{out.stem}-overview.png")


def _advice(out: Path) -> str:
    python = os.path.relpath(sys.executable)
    if len(python) > len(sys.executable):
        python = sys.executable
    command = f"{python.rpartition('/')[0]}/lepton-pipe" if "/" in python else "lepton-pipe"
    return f"""
Look at it:
  {_overview(out)}
      the picture beside the objects that were found in it
  napari --plugin napari-ome-zarr {out}/light {out}/objects
      images and labels are OME-Zarr 0.5; anything that reads it opens them (napari shows labels
      as a layer that is hidden at first)
  {python} -c "import pyarrow.parquet as pq; print(pq.read_table('{out}/catalogue.parquet'))"
Next:
  {command} list
      the pipelines that ship with lepton_pipe
  {command} run nuclei --help
      run one on an image of your own; a large one runs on a Dask cluster, with a dashboard"""
