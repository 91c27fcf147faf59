"""Read the command line of ``run``, ``plan`` and ``check``: flags come from the pipeline itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from lepton_pipe.api import Pipeline, Plan, open_image
from lepton_pipe.errors import UsageError
from lepton_pipe.options import KEEP, ON_ERROR, RUN_OPTIONS
from lepton_pipe.spec import Parameter

if TYPE_CHECKING:
    from lepton_pipe.check import CheckResult

COMMANDS = {
    "run": "run a pipeline and publish its results",
    "plan": "show what a run would do: stages, blocks, memory, time; runs nothing",
    "check": "prove on a part of the image that blocks give the same result as the whole",
    "status": "show where a run stands: while it runs, after it was stopped, when it is complete",
    "verify": "compare every file of a result with what was written when it was made; mend it",
    "clean": "remove what a run that was stopped left beside its output; never the output",
    "list": "list the pipelines that ship with lepton_pipe",
    "demo": "find the galaxies in a Hubble picture; needs nothing prepared",
}

_GENERAL_EPILOG = """\
exit status: 0 complete, 1 usage, 2 failed (nothing published), 3 published but for what is listed
in quarantine.json (see --on-error), 4 refused before starting, 130/143 stopped by a signal. An
output that is there is never touched without --overwrite or --update.
"""


@dataclass
class Request:
    """What was asked for on the command line."""

    pipeline: Pipeline
    images: dict[str, str] = field(default_factory=dict)
    out: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    opening: dict[str, dict[str, Any]] = field(default_factory=dict)
    part: int = 128
    json: bool = False
    explain: bool = False
    help_text: str | None = None

    def sources(self) -> dict[str, Any]:
        """Open the images."""
        tolerant = self.options.get("on_error", "fail") != "fail"
        return {
            n: open_image(p, **self.opening.get(n, {}), tolerant=tolerant)
            for n, p in self.images.items()
        }

    def plan(self) -> Plan:
        """Plan what was asked for."""
        if self.out is None:
            raise UsageError("out=PATH is missing: name the directory to publish the results in")
        self.pipeline.split((), {**self.images, **self.parameters})
        return self.pipeline.plan(out=self.out, **self.options, **self.sources(), **self.parameters)

    def check(self) -> CheckResult:
        """Check what was asked for."""
        from lepton_pipe.check import check

        self.pipeline.split((), {**self.images, **self.parameters})
        return check(self.pipeline, part=self.part, **self.sources(), **self.parameters)


class Parser(argparse.ArgumentParser):
    """Raises instead of leaving, and guesses what a misspelt flag was meant to be."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong as `UsageError`."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def flags(self) -> list[str]:
        """Return all flags."""
        return [s for a in self._actions for s in a.option_strings]


def wants_help(word: str) -> bool:
    """Tell whether a word asks for help."""
    return word in ("-h", "--help", "help")


def general_help() -> str:
    """Return the help of the command as a whole."""
    lines = ["usage: lepton-pipe COMMAND ...", ""]
    lines += [f"  {name:7} {text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "  lepton-pipe run nuclei raw=cells.ome.zarr out=cells_seg.zarr --sigma 3",
        "  lepton-pipe run nuclei --help",
        "",
        _GENERAL_EPILOG,
    ]
    return "\n".join(lines).rstrip()


def parse(command: str, argv: Sequence[str]) -> Request:
    """Read the words after a command.

    Raises
    ------
    UsageError
        When a word is not understood; names it and what was meant, where that can be guessed.
    """
    from lepton_pipe.catalogue import find_pipeline, shipped_pipelines

    if not argv or wants_help(argv[0]) or argv[0].startswith("-"):
        names = ", ".join(shipped_pipelines())
        if argv and wants_help(argv[0]):
            return Request(_NOTHING, help_text=_command_help(command, names))
        raise UsageError(
            f"lepton-pipe {command} needs a pipeline first: one of {names}, or a file such as "
            "mine.py or mine.py:name"
        )
    pipeline = find_pipeline(argv[0])
    parser = _parser(command, pipeline, argv[0])
    if any(wants_help(word) and word.startswith("-") for word in argv[1:]):
        return Request(pipeline, help_text=parser.format_help().rstrip())
    _refuse_unknown_flags(parser, argv[1:])
    words = _sparse_words(argv[1:], pipeline)
    return _request(command, pipeline, parser.parse_intermixed_args(words))


def parse_output(command: str, argv: Sequence[str]) -> argparse.Namespace:
    """Read the words after a command about an output: its place ``out``, and ``json``."""
    told = command in ("status", "verify")
    repair = " [--repair [--pipeline NAME_OR_FILE]]" if command == "verify" else ""
    parser = Parser(
        prog=f"lepton-pipe {command}",
        usage=f"lepton-pipe {command} OUT{repair}{' [--json]' if told else ''}",
        description=COMMANDS[command],
        allow_abbrev=False,
    )
    parser.add_argument(
        "out", metavar="OUT", help="the output of the run, as it was named with out="
    )
    if told:
        parser.add_argument("--json", action="store_true", help="print it as JSON")
    if command == "verify":
        parser.add_argument(
            "--repair",
            action="store_true",
            help="make again what is damaged: runs the pipeline that made the result, from the "
            "file that is noted in it, for those blocks; removes what is extra",
        )
        parser.add_argument(
            "--pipeline",
            metavar="NAME_OR_FILE",
            help="with --repair, what made the result, if it is not where it was; files that a "
            "result at a URL names are not run without it",
        )
    parser.add_argument(
        "--staging",
        metavar="DIR",
        help="where the result of a run to a URL was made, or is made again; by default the "
        "current folder",
    )
    _refuse_unknown_flags(parser, argv)
    found = parser.parse_args(argv)
    # As it was written in the command that is asked about.
    found.out = found.out.removeprefix("out=")
    return found


def _command_help(command: str, names: str) -> str:
    return (
        f"usage: lepton-pipe {command} NAME_OR_FILE IMAGE=PATH ... "
        f"{'out=PATH ' if command != 'check' else ''}[--flags]\n\n{COMMANDS[command]}\n\n"
        f"pipelines: {names}; or a file of your own, mine.py or mine.py:name\n"
        f"flags and images of a pipeline: lepton-pipe {command} NAME_OR_FILE --help"
    )


def _parser(command: str, pipeline: Pipeline, name: str) -> Parser:
    images = " ".join(
        f"{i}=PATH" if required else f"[{i}=PATH]" for i, required in pipeline.images.items()
    )
    places = images if command == "check" else f"{images} out=PATH"
    parser = Parser(
        prog=f"lepton-pipe {command} {name}",
        usage=f"lepton-pipe {command} {name} {places} [--flags]",
        description=pipeline.summary,
        epilog=None if command == "check" else _GENERAL_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("places", nargs="*", help=argparse.SUPPRESS)
    own = parser.add_argument_group(f"parameters of {pipeline.name}")
    for parameter in pipeline.parameters.values():
        _add_parameter(own, parameter)
    _add_opening(parser)
    if command == "check":
        _add_check(parser)
    else:
        _add_run(parser)
    if command == "plan":
        parser.add_argument(
            "--explain",
            action="store_true",
            help="say why each stage has its blocks, and what the next best would cost",
        )
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    return parser


def _add_parameter(group: Any, parameter: Parameter) -> None:
    default = "required" if parameter.required else f"default {parameter.default}"
    group.add_argument(
        f"--{parameter.name.replace('_', '-')}",
        dest=f"parameter {parameter.name}",
        metavar=parameter.type_name.split(" ")[0].split("[")[0].upper(),
        type=parameter.parse,
        default=None,
        help=f"{parameter.help} ({default})".replace("%", "%%").strip(),
    )


def _add_opening(parser: Parser) -> None:
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


def _sparse_words(words: Sequence[str], pipeline: Pipeline) -> list[str]:
    """Join ``--sparse`` and the image it speaks of; without one it speaks of all."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sparse=" and word in pipeline.images:
            joined[-1] += word
        else:
            joined.append("--sparse=" if word == "--sparse" else word)
    return joined


def _add_run(parser: Parser) -> None:
    group = parser.add_argument_group("the run")
    add = group.add_argument
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
    add("--device-memory", help="what may be used of each GPU, such as 16GiB (default: most of it)")
    add("--scheduler", metavar="ADDRESS", help="a running Dask scheduler, such as tls://host:8786")
    add("--serial", action="store_true", help="one process, one block at a time, without Dask")
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
    add(
        "--on-error",
        choices=ON_ERROR,
        default="fail",
        help="where an input cannot be read or a kernel fails: fail publishes nothing; the others "
        "go on and list it in quarantine.json: skip leaves out all that depends on it, fill takes "
        "what cannot be read for 0 (NaN in floats)",
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


def _add_check(parser: Parser) -> None:
    parser.add_argument_group("the check").add_argument(
        "--part", type=int, default=128, help="voxels per axis of the part that is checked"
    )


def _refuse_unknown_flags(parser: Parser, words: Sequence[str]) -> None:
    known = parser.flags()
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            close = get_close_matches(flag, known, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"unknown flag {flag}{meant} (see {parser.prog} --help)")


def _request(command: str, pipeline: Pipeline, found: argparse.Namespace) -> Request:
    request = Request(pipeline, json=found.json, explain=getattr(found, "explain", False))
    for word in found.places:
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise UsageError(
                f"{word!r} is not understood; images and the output are given as NAME=PATH: "
                + " ".join(f"{i}=PATH" for i in (*pipeline.images, "out"))
            )
        if name in request.images or (name == "out" and request.out is not None):
            raise UsageError(f"{name}= is given twice; which one is meant?")
        if name == "out":
            request.out = path
        else:
            request.images[name] = path
    prefix = "parameter "
    request.parameters = {
        n.removeprefix(prefix): v
        for n, v in vars(found).items()
        if n.startswith(prefix) and v is not None
    }
    request.opening = _opening(pipeline, found)
    if command == "check":
        request.part = found.part
    else:
        request.options = {n: getattr(found, n) for n in RUN_OPTIONS if n not in ("out", "sparse")}
    return request


def _opening(pipeline: Pipeline, found: argparse.Namespace) -> dict[str, dict[str, Any]]:
    opening: dict[str, dict[str, Any]] = {}
    for option in ("level", "axes", "scale", "unit"):
        for word in getattr(found, f"input_{option}") or []:
            name, equals, text = word.rpartition("=")
            names = [name] if equals else list(pipeline.images)
            for image in names:
                if image not in pipeline.images:
                    raise UsageError(
                        f"--input-{option} {word}: there is no image {image!r}; there are "
                        f"{', '.join(pipeline.images)}"
                    )
                opening.setdefault(image, {})[option] = _opening_value(option, text)
    for name in found.sparse:
        for image in [name] if name else list(pipeline.images):
            if image not in pipeline.images:
                raise UsageError(
                    f"--sparse {name}: there is no image {name!r}; there are "
                    f"{', '.join(pipeline.images)}"
                )
            opening.setdefault(image, {})["sparse"] = True
    return opening


def _opening_value(option: str, text: str) -> Any:
    try:
        if option == "level":
            return int(text)
        if option == "scale":
            numbers = [float(t) for t in text.split(",")]
            return numbers[0] if len(numbers) == 1 else numbers
    except ValueError as error:
        raise UsageError(f"--input-{option} {text!r} is not a number") from error
    return text


_NOTHING: Any = None
