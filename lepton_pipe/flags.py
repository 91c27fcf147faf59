"""The flags of the command line: those of a pipeline come from its parameters."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from lepton_pipe.api import Pipeline
from lepton_pipe.errors import UsageError
from lepton_pipe.options import KEEP, ON_ERROR
from lepton_pipe.spec import Parameter


class Parser(argparse.ArgumentParser):
    """Raises instead of leaving, and guesses what a misspelt flag was meant to be."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as `UsageError`."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def flags(self) -> list[str]:
        """Return all flags."""
        return [s for a in self._actions for s in a.option_strings]


def add_parameter(group: Any, parameter: Parameter, *, several: bool) -> None:
    """Add the flag of a parameter, which may be for several values."""
    default = "required" if parameter.required else f"default {parameter.default}"
    group.add_argument(
        f"--{parameter.name.replace('_', '-')}",
        dest=f"parameter {parameter.name}",
        metavar=parameter.type_name.split(" ")[0].split("[")[0].upper() + ",..." * several,
        type=parameter.parse_several if several else parameter.parse,
        default=None,
        help=f"{parameter.help} ({default})".replace("%", "%%").strip(),
    )


def add_opening(parser: Parser) -> None:
    """Add the flags that say of an input what its file does not."""
    group = parser.add_argument_group(
        "what an input's file does not say (for one of several images: NAME=VALUE)"
    )
    add = group.add_argument
    add("--input-level", action="append", metavar="N", help="scale level, 0 the finest")
    add("--input-axes", action="append", metavar="AXES", help="axes as stored, such as tyx")
    add(
        "--input-scale",
        action="append",
        metavar="SIZE",
        help="voxel size: one number, or z,y,x separated by commas",
    )
    add("--input-unit", action="append", metavar="UNIT", help="unit of the voxel size: micrometer")
    add(
        "--sparse",
        action="append",
        default=[],
        metavar="[NAME]",
        help="chunks that are missing in an input (all inputs without a NAME) hold the fill value; "
        "by default a missing chunk is an error",
    )


def sparse_words(words: Sequence[str], pipeline: Pipeline) -> list[str]:
    """Join ``--sparse`` and the image it speaks of; without one it speaks of all."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sparse=" and word in pipeline.images:
            joined[-1] += word
        else:
            joined.append("--sparse=" if word == "--sparse" else word)
    return joined


def add_explain(parser: Parser) -> None:
    """Add the flag that has a plan explained."""
    parser.add_argument(
        "--explain",
        action="store_true",
        help="say why each stage has its blocks, and what the next best would cost",
    )


def add_run(parser: Parser) -> None:
    """Add the flags of every run."""
    add = parser.add_argument_group("the run").add_argument
    _add_means(add)
    _add_results(add)
    _add_course(add)
    _add_replacing(add)


def _add_means(add: Callable[..., Any]) -> None:
    """Add the flags that say what a run may use."""
    add(
        "--memory",
        help="for the whole run, all processes, such as 4GiB (default: most of what is free)",
    )
    add(
        "--workers",
        type=int,
        help="worker processes, even for a small image (default: as few as can be; kernels in "
        "plain Python, which hold the GIL, want one for each core)",
    )
    add("--threads", type=int, help="blocks that each worker computes at once (default: all cores)")
    add("--device", choices=("auto", "cpu", "gpu"), default="auto", help="where kernels run")
    add(
        "--device-direct",
        action="store_true",
        help="read uncompressed chunks of local files straight to the GPU (needs kvikio)",
    )
    add(
        "--device-memory",
        help="what may be used of each GPU, such as 16GiB (default: most of it); not without one",
    )
    add("--scheduler", metavar="ADDRESS", help="a running Dask scheduler, such as tls://host:8786")
    add("--serial", action="store_true", help="one process, one block at a time, without Dask")


def _add_results(add: Callable[..., Any]) -> None:
    """Add the flags that say how results are written, and what is kept until then."""
    add(
        "--chunks",
        metavar="AXIS=N,...",
        help="chunk lengths of the output images, such as z=1,y=1024,x=1024 (default: those of the "
        "input, or about a million voxels)",
    )
    add(
        "--levels",
        type=int,
        metavar="N",
        help="scale levels of the output images at most; 1 makes no pyramid (default: until the "
        "image fits a screen)",
    )
    add(
        "--keep",
        choices=KEEP,
        default="auto",
        help="where what later stages need again is kept meanwhile (default: auto: in memory where "
        "there is room, and on disk too if it takes long to make)",
    )


def _add_course(add: Callable[..., Any]) -> None:
    """Add the flags that say what a run makes of its inputs, of errors, and of what it meets."""
    add(
        "--on-error",
        choices=ON_ERROR,
        default="fail",
        help="where an input cannot be read or a kernel fails: fail publishes nothing; the others "
        "go on and list it in quarantine.json: skip leaves out all that depends on it, fill takes "
        "what cannot be read for 0 (NaN in floats)",
    )
    add(
        "--digest",
        action="store_true",
        help="know input files by their bytes instead of size and time: what goes on or is updated "
        "finds every change, and takes a copy for the same; reads them once more",
    )
    add(
        "--stall",
        type=float,
        metavar="SECONDS",
        help="for how long a cluster may stand still, no block ending and no core used, before "
        "workers that hang are replaced (default: 600)",
    )
    add(
        "--insecure",
        action="store_true",
        help="use a scheduler on a network without encryption (tcp://) all the same",
    )


def _add_replacing(add: Callable[..., Any]) -> None:
    """Add the flags that say what becomes of an earlier result, and where the new one is made."""
    add("--overwrite", action="store_true", help="replace an output once the new one is whole")
    add(
        "--update",
        action="store_true",
        help="the same, and compute those blocks alone that changed since the output was made",
    )
    add(
        "--staging",
        metavar="DIR",
        help="where a result for a URL is made before it is uploaded (default: the current folder)",
    )


def add_check(parser: Parser) -> None:
    """Add the flags of a check."""
    parser.add_argument_group("the check").add_argument(
        "--part",
        type=int,
        default=128,
        metavar="N",
        help="voxels per axis of the part that is checked, 2 or more (default: %(default)s)",
    )


def refuse_unknown_flags(parser: Parser, words: Sequence[str]) -> None:
    """Raise `UsageError` for a flag that there is not, with the one that may be meant."""
    known = parser.flags()
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            close = get_close_matches(flag, known, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"unknown flag {flag}{meant} (see {parser.prog} --help)")
