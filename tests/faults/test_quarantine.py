"""Broken files among good ones, and blocks that take their workers along."""

from __future__ import annotations

import json
import shutil
import signal
import struct

import numpy as np
import pytest
import tifffile
import zarr

from lepton_pipe.errors import InputError
from lepton_pipe.store import open_source
from lepton_pipe.worker.faults import read_around
from tests.command import lepton
from tests.faults.world import USER, World

FILES, SIDE = 1000, 24


def picture(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(1, 60_000, (SIDE, SIDE)).astype(np.uint16)


# -- a thousand files, twenty of them broken in ten ways ------------------------------------------


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_by_a_byte(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def not_an_image(path):
    path.write_text("<html>404 Not Found</html>\n" * 40)


def of_another_shape(path):
    tifffile.imwrite(path, picture(0)[:, :-1], compression="zlib")


def of_another_dtype(path):
    tifffile.imwrite(path, picture(0).astype(np.float32), compression="zlib")


def with_two_pages(path):
    tifffile.imwrite(path, np.stack([picture(0)] * 2), compression="zlib")


def with_flipped_bits(path):
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.dataoffsets[0] + tiff.pages.first.databytecounts[0] // 2
    data = bytearray(path.read_bytes())
    data[at : at + 8] = bytes(255 - b for b in data[at : at + 8])
    path.write_bytes(data)


def led_astray(path):
    """Point to a directory of pages far beyond the end."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 2**31)
    path.write_bytes(data)


def linked_to_nowhere(path):
    path.unlink()
    path.symlink_to(path.with_name("gone"))


WAYS = [
    *(cut_in_half, cut_by_a_byte, emptied, not_an_image, of_another_shape),
    *(of_another_dtype, with_two_pages, with_flipped_bits, led_astray, linked_to_nowhere),
]
BROKEN = dict(zip(np.linspace(3, 990, 20).astype(int).tolist(), [*WAYS, *WAYS], strict=True))


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A folder with a thousand small files."""
    folder = tmp_path_factory.mktemp("thousand")
    for i in range(FILES):
        path = folder / f"plane_{i:04d}.tif"
        # The strip comes last, so that a file that lacks a byte lacks a byte of it.
        tifffile.imwrite(path, picture(i), compression="zlib", metadata=None)
        if i in BROKEN:
            BROKEN[i](path)
    return folder


@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_twenty_are_listed_and_980_are_right(thousand, tmp_path, on_error):
    words = "run", USER.with_name("pipelines_of_files.py"), f"raw={thousand}", "out=o"
    done = lepton(*words, "--input-axes", "tyx", "--on-error", on_error, "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    listed = json.loads((tmp_path / "o/quarantine.json").read_text())["quarantined"]
    assert [q["path"] for q in listed] == [str(thousand / f"plane_{i:04d}.tif") for i in BROKEN]
    assert [q["region"] for q in listed] == [f"[{i}:{i + 1}, 0:24, 0:24]" for i in BROKEN]
    assert all(q["error"] and "Error" in q["traceback"] for q in listed)
    stored = zarr.open_group(tmp_path / "o/plus", mode="r")["0"][:]
    for i in range(FILES):
        expected = 0 if i in BROKEN and on_error == "skip" else picture(i) + 1
        expected = 1 if i in BROKEN and on_error == "fill" else expected
        np.testing.assert_array_equal(stored[i], expected)
    good = np.stack([picture(i) for i in range(FILES) if i not in BROKEN])
    values = json.loads((tmp_path / "o/values.json").read_text())
    assert values["mean"] == good.mean()
    top = zarr.open_group(tmp_path / "o/top", mode="r")["0"][:]
    np.testing.assert_array_equal(top, good.max(0))


def test_by_default_a_broken_file_is_refused_and_named(thousand, tmp_path):
    words = "run", "convert", f"raw={thousand}", "out=o", "--input-axes", "tyx"
    done = lepton(*words, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "plane_0003.tif" in done.stderr
    assert not (tmp_path / "o").exists()


def test_the_terminal_names_ten(thousand, tmp_path):
    words = "run", "convert", f"raw={thousand}", "out=o", "--input-axes", "tyx"
    done = lepton(*words, "--on-error", "skip", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert sum(f"{thousand}/plane" in line for line in done.stdout.splitlines()) == 10
    assert "... and 10 more, see" in done.stdout
    told = lepton("status", "o", cwd=tmp_path)
    assert "complete, but for 20 quarantined" in told.stdout


# -- one file of many pages, cut at 150 places ----------------------------------------------------

PAGES, CUTS = 12, 150


def pages(folder, kind):
    """Write a compressed file of many pages; return it and these."""
    path, image = folder / "raw.tif", np.stack([picture(i) for i in range(PAGES)])
    more = {"shaped": {}, "imagej": {"imagej": True}, "ome": {"ome": True}}[kind]
    axes = {} if kind == "shaped" else {"metadata": {"axes": "ZYX"}}
    tifffile.imwrite(path, image, compression="zlib", photometric="minisblack", **more, **axes)
    return path, image


@pytest.mark.parametrize("kind", ["shaped", "imagej", "ome"])
def test_wherever_a_file_is_cut_off_no_page_reads_as_zeros(kind, tmp_path):
    path, image = pages(tmp_path, kind)
    data, planned = path.read_bytes(), open_source(path).type
    told = 0
    for end in np.linspace(0, len(data) - 1, CUTS).astype(int):
        cut = tmp_path / "cut.tif"
        cut.write_bytes(data[:end])
        with pytest.raises(InputError, match="cut"):
            open_source(cut)
        try:
            source = open_source(cut, tolerant=True)
        except InputError:  # it does not tell any more what it was
            continue
        assert source.type == planned
        told += 1
        read, failed = read_around(source, source.type.grid.region)
        bad = [region.start[0] for region, _ in failed]
        assert bad
        assert all(str(cut) in str(error) for _, error in failed)
        good = np.setdiff1d(np.arange(PAGES), bad)
        np.testing.assert_array_equal(read[good], image[good])
        assert (read[bad] == 0).all()
    assert told > 140 or kind == "ome"  # which says at its end what it is


def test_pages_that_are_cut_off_are_listed(tmp_path):
    path, image = pages(tmp_path, "shaped")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    words = "run", "convert", "raw=raw.tif", "out=o"
    refused = lepton(*words, cwd=tmp_path)
    assert refused.returncode == 1
    done = lepton(*words, "--on-error", "skip", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    stored = zarr.open_group(tmp_path / "o/image", mode="r")["0"][:]
    listed = json.loads((tmp_path / "o/quarantine.json").read_text())["quarantined"]
    bad = [int(q["region"][1:].split(":")[0]) for q in listed]
    assert 5 <= len(bad) <= 7
    for i in range(PAGES):
        np.testing.assert_array_equal(stored[i], 0 if i in bad else image[i])


# -- a run that is killed on the way --------------------------------------------------------------


def test_a_run_that_is_killed_goes_on_to_the_same_list(image_folder, tmp_path):
    shutil.copytree(image_folder / "raw.zarr", tmp_path / "raw.zarr")
    file = tmp_path / "raw.zarr/c/1/2/1"
    file.write_bytes(file.read_bytes()[:-5])
    seen = []
    for name, kills in {"golden": {}, "killed": {"LEPTON_TEST_KILL_DRIVER": 3}}.items():
        (tmp_path / name).mkdir()
        world = World(tmp_path, tmp_path / name)
        words = "objects", "--on-error", "skip"
        if kills:
            assert world.run(*words, **kills).returncode == -signal.SIGKILL
            assert world.published() is None
        done = world.run(*words)
        assert done.returncode == 3, done.stderr
        files = world.published()
        del files["quarantine.json"]  # it names lines and threads
        listed = json.loads((world.out / "quarantine.json").read_text())["quarantined"]
        seen.append((files, [(q["path"], q["region"]) for q in listed]))
    assert seen[0] == seen[1]
    assert seen[0][1] == [(str(file), "[8:16, 80:120, 40:80]")]


# -- a block that kills its worker ----------------------------------------------------------------


def test_a_kernel_that_ended_the_run_gets_a_worker_when_it_goes_on(image_folder, tmp_path):
    file = USER.with_name("pipelines_of_poison.py")
    words = "run", file, f"raw={image_folder}/raw.zarr", "out=o", "--levels", "1"
    assert lepton(*words, cwd=tmp_path).returncode == -signal.SIGKILL
    stopped = lepton("status", "o", cwd=tmp_path)
    assert "its process ended in the middle of its blocks" in stopped.stdout
    for _ in range(2):  # the second goes on from a run that did not die
        failed = lepton(*words, cwd=tmp_path)
        assert failed.returncode == 2, failed.stderr
        assert "ended its worker process 3 times" in failed.stderr


def test_a_block_that_kills_its_workers_is_listed_and_no_other(image_folder, tmp_path):
    file = USER.with_name("pipelines_of_poison.py")
    words = "run", file, f"raw={image_folder}/raw.zarr", "--levels", "1"
    good = lepton(*words, "out=good", "--serial", "--good", "true", cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    more = "--workers", "2", "--on-error", "skip", "--memory", "3GiB"
    done = lepton(*words, "out=o", *more, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    (found,) = json.loads((tmp_path / "o/quarantine.json").read_text())["quarantined"]
    assert found["kind"] == "process"
    stored = zarr.open_group(tmp_path / "o/poison", mode="r")["0"][:]
    expected = zarr.open_group(tmp_path / "good/poison", mode="r")["0"][:]
    z, y, x = (slice(*map(int, r.split(":"))) for r in found["region"][1:-1].split(", "))
    assert (stored[z, y, x] == 0).all()
    assert expected[z, y, x].size < expected.size / 2
    expected[z, y, x] = 0
    np.testing.assert_array_equal(stored, expected)
