"""Whatever happens to a published file is found, and named."""

from __future__ import annotations

import json
import random
import shutil
import threading

import numpy as np
import pytest

from lepton_pipe.errors import DamagedError, RefusedError
from lepton_pipe.run import verify as verify_module
from lepton_pipe.run.verify import verify
from tests.command import assert_refused, lepton
from tests.run.five import picture, segment

IMAGE = picture((9, 61, 70), "uint16", 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "o"
    segment.plan(raw=IMAGE, out=out, serial=True, chunks="y=16,x=16").run(progress=False)
    return out


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "o")


def files(out):
    return sorted(p for p in out.rglob("*") if p.is_file() and ".lepton" not in p.parts)


def test_a_result_is_whole_and_every_file_is_compared(out):
    found = verify(out)
    assert found.whole
    assert (found.missing, found.changed, found.extra) == ((), (), ())
    assert found.files == len(files(out)) > 10
    assert found.size == sum(p.stat().st_size for p in files(out))


def test_a_version_that_takes_the_place_of_the_one_looked_at_is_not_damaged(
    out, tmp_path, monkeypatch
):
    """All files are other ones than the ledger says that was opened."""
    new, found = tmp_path / "new", verify_module._found
    other = {"raw": IMAGE[::-1].copy(), "serial": True, "chunks": "y=16,x=16"}
    segment.plan(out=new, **other).run(progress=False)

    once = threading.Lock()

    def replaced(path):
        with once:  # files are looked at by several threads
            if new.exists():
                out.rename(tmp_path / "old")
                new.rename(out)
        return found(path)

    monkeypatch.setattr(verify_module, "_found", replaced)
    assert verify(out).whole


def test_300_random_flips_of_a_bit_are_found(out):
    chosen = random.Random(1)  # noqa: S311
    for _ in range(300):
        file = chosen.choice(files(out))
        before = file.read_bytes()
        torn = bytearray(before)
        torn[chosen.randrange(len(torn))] ^= 1 << chosen.randrange(8)
        file.write_bytes(torn)
        found = verify(out)
        assert not found.whole
        assert found.changed == (file.relative_to(out).as_posix(),)
        file.write_bytes(before)
    assert verify(out).whole


def test_every_missing_file_is_named(out):
    for file in files(out):
        if file.name == "lepton.json":
            continue
        before = file.read_bytes()
        file.unlink()
        assert verify(out).missing == (file.relative_to(out).as_posix(),)
        file.write_bytes(before)


def test_what_nobody_published_is_named_and_does_no_harm(out):
    (out / "notes.txt").write_text("mine")
    found = verify(out)
    assert found.whole
    assert (found.leftover, found.extra) == ((), ("notes.txt",))


def test_a_link_is_not_followed(out, tmp_path):
    file = files(out)[3]
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert verify(out).changed == (file.relative_to(out).as_posix(),)


def test_a_damaged_ledger_is_told_from_a_damaged_result(out):
    ledger = out / ".lepton/ledger.sqlite"
    chosen, whole = random.Random(2), ledger.read_bytes()  # noqa: S311
    for _ in range(40):
        torn = bytearray(whole)
        at = chosen.randrange(len(torn))
        torn[at : at + 64] = bytes(b ^ 255 for b in torn[at : at + 64])
        ledger.write_bytes(torn)
        try:
            found = verify(out)
        except (DamagedError, RefusedError):
            continue
        assert found.missing == found.changed == ()


def test_what_has_no_ledger_is_refused(out, tmp_path):
    with pytest.raises(RefusedError, match="no result of lepton_pipe"):
        verify(tmp_path)
    shutil.rmtree(out / ".lepton")
    with pytest.raises(RefusedError, match="make the result anew"):
        verify(out)


def test_the_command_line_tells_what_is_damaged(out):
    done = lepton("verify", "o", cwd=out.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert "whole" in done.stdout
    chunk = next(p for p in files(out) if "c" in p.parts)
    chunk.unlink()
    done = lepton("verify", "o", "--json", cwd=out.parent)
    assert done.returncode == 2
    assert json.loads(done.stdout)["missing"] == [chunk.relative_to(out).as_posix()]
    assert_refused(lepton("verify", "nothing", cwd=out.parent), 4, "no result of lepton_pipe")


def test_results_copied_from_the_input_are_compared_too(tmp_path):
    import zarr

    from tests.run.five import pyramid

    zarr.create_array(str(tmp_path / "raw.zarr"), data=np.asarray(IMAGE), chunks=(4, 32, 32))
    pyramid.plan(raw=tmp_path / "raw.zarr", out=tmp_path / "o", serial=True).run(progress=False)
    found = verify(tmp_path / "o")
    assert found.whole
    assert found.files == len(files(tmp_path / "o"))
