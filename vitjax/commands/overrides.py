"""`--train.steps 100` over a config: typed, refused with the nearest known key, before any device is touched."""

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from vitjax.parallel.mesh import MeshConfig

T = TypeVar("T")
_FRAME = re.compile(r"[│╭╮╰╯─]+")


def apply_overrides(config: T, arguments: Sequence[str], *, prog: str) -> T:
    """`config` with the given flags changed. `--mesh data=4,fsdp=2` is short for its three flags.

    Raises ValueError with one line: the flag, what is wrong with it, and the nearest known one.
    """
    arguments = list(arguments)
    if "-h" in arguments or "--help" in arguments:
        tyro.cli(type(config), default=config, args=["--help"], prog=prog, config=_STYLE)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return tyro.cli(
                type(config), default=config, args=_expand_mesh(arguments), prog=prog, config=_STYLE
            )
    except SystemExit:
        raise ValueError(_one_line(printed.getvalue())) from None


_STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)


def _expand_mesh(arguments: list[str]) -> list[str]:
    expanded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag != "--mesh":
            expanded.append(argument)
            continue
        mesh = MeshConfig.parse(value if equals else next(rest, ""))
        for field in dataclasses.fields(mesh):
            expanded += [f"--mesh.{field.name}", str(getattr(mesh, field.name))]
    return expanded


def _one_line(printed: str) -> str:
    """What tyro says in a box, as one line: the complaint and the nearest option."""
    lines = [line for line in (_FRAME.sub(" ", raw).strip() for raw in printed.splitlines()) if line]
    body = [line for line in lines[1:] if not line.startswith("For full helptext")]
    complaint: list[str] = []
    for line in body:
        if line.startswith(("Argument helptext", "Perhaps you meant", "Similar options", "--")):
            break
        complaint.append(line)
    nearest = next((line.split()[0] for line in body[len(complaint) :] if line.startswith("--")), None)
    text = " ".join(complaint) or "the options do not fit"
    return text + (f"; did you mean {nearest}?" if nearest and nearest not in text else "")
