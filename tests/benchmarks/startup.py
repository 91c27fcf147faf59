"""How long it takes until something happens: import, help, and a small image published."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from tests.benchmarks import machine
from tests.benchmarks.measure import ROOT

REPEATS = 5
SHAPE = (20, 512, 512)  # 10 MB of uint16
_SCRIPT = Path(sys.executable).with_name("lepton-pipe")


def main(data: Path, out: Path) -> None:
    """Measure and write ``startup.md`` and ``startup.json``."""
    if not _SCRIPT.exists():
        raise SystemExit(f"no command {_SCRIPT.name} beside Python: install it by pip install -e .")
    folder = data / "startup"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    image = _image(folder)
    result = folder / "out.zarr"
    flatfield = ["run", "flatfield", f"raw={image}", f"out={result}", "--overwrite"]
    nuclei = ["run", "nuclei", f"raw={image}", f"out={result}", "--overwrite"]
    python, command = sys.executable, str(_SCRIPT)
    rows = {
        "python -c pass": _seconds([python, "-c", "pass"]),
        "import lepton_pipe": _seconds([python, "-c", "import lepton_pipe"]),
        "lepton-pipe --help": _seconds([command, "--help"]),
        "lepton-pipe run flatfield, 10 MB": _seconds([command, *flatfield]),
        "lepton-pipe run nuclei, 10 MB": _seconds([command, *nuclei]),
    }
    shutil.rmtree(folder)
    found = machine.facts()
    out.mkdir(parents=True, exist_ok=True)
    (out / "startup.json").write_text(
        json.dumps({"machine": found, "repeats": REPEATS, "seconds": rows}, indent=1) + "\n"
    )
    table = [f"| {n} | {s[0]:.2f} | {median(s[1:]):.2f} |" for n, s in rows.items()]
    head = [
        "# Start-up",
        "",
        machine.sentence(found),
        "",
        f"Seconds of a fresh process from start to end; the median of {REPEATS} runs after a "
        "first one, which may have had to compile. `python -c pass` is what the interpreter takes.",
        "",
        "| | first | median |",
        "|---|---|---|",
    ]
    text = "\n".join([*head, *table]) + "\n"
    (out / "startup.md").write_text(text)
    print(text)


def _image(folder: Path) -> Path:
    """Make a small image with something in it."""
    from scipy import ndimage

    noise = np.random.default_rng(7).standard_normal(SHAPE, dtype=np.float32)
    blobs = ndimage.gaussian_filter(noise, (1, 6, 6))
    image = (400 + 900 * np.clip(blobs / blobs.max(), 0, 1) + 20 * noise).astype(np.uint16)
    path = folder / "cells.tif"
    import tifffile

    tifffile.imwrite(path, image, metadata={"axes": "ZYX"}, ome=False, imagej=True)
    return path


def _seconds(command: Sequence[str]) -> list[float]:
    """Return how long a process takes: the first time, then `REPEATS` times."""
    took = []
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        done = subprocess.run(command, env=env, capture_output=True, check=False)
        took.append(round(time.perf_counter() - began, 4))
        if done.returncode:
            raise RuntimeError(f"{command[-5:]}: {done.stderr.decode()[-500:]}")
    return took
