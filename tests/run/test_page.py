"""The page of a run, as a browser gets it while blocks are computed."""

from __future__ import annotations

import json
from urllib.request import urlopen

from lepton_pipe.plan import InputInfo, Resources, make_plan
from lepton_pipe.report.progress import Silent
from lepton_pipe.run.driver import run_plan
from tests.run.five import bind, picture, segment


class Visitor(Silent):
    """Looks at the page whenever a block has ended."""

    def __init__(self):
        self.link, self.seen = "", []

    def say(self, text):
        self.link = text.removeprefix("dashboard: ")

    def tick(self):
        self.seen.append((_got(self.link), json.loads(_got(f"{self.link}/state"))))


def _got(link):
    assert link.startswith("http://127.0.0.1:")
    with urlopen(link, timeout=60) as answer:  # noqa: S310  looked at above
        return answer.read()


def test_the_page_tells_how_far_a_run_is(tmp_path):
    spec, sources = bind(segment, picture((9, 61, 70), "uint16", 1))
    inputs = {n: InputInfo(s.type, s.chunks, s.uri) for n, s in sources.items()}
    plan = make_plan(spec, inputs, Resources(2**31, 1, 1), {"z": 4, "y": 17, "x": 23})
    visitor = Visitor()
    run_plan(plan, sources, tmp_path / "o", watcher=visitor)
    assert len(visitor.seen) == plan.tasks
    assert all(page.startswith(b"<!doctype html>") for page, _ in visitor.seen)
    states = [state for _, state in visitor.seen]
    shares = [state["share"] for state in states]
    assert shares == sorted(shares) and shares[0] < 0.5 < shares[-1]
    last = states[-1]
    assert (last["pipeline"], last["out"]) == ("segment", str(tmp_path / "o"))
    assert [s["state"] for s in last["stages"]][-2:] == ["done", "runs"]
    assert last["memory"]["peak"] > 0
    assert len(last["map"]["cells"]) == plan.stages[-1].blocks.counts[-2]
