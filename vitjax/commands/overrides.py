"""`--train.steps 100` over a config: typed, refused with the nearest known key, before any device is touched."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

import tyro

from vitjax.parallel.mesh import MeshConfig

T = TypeVar("T")
_FRAME = re.compile(r"[│╭╮╰╯─]+|-{8,}")


def apply_overrides(config: T, arguments: Sequence[str], *, prog: str, flags: Iterable[str] = ()) -> T:
    """`config` with the given flags changed. `--mesh data=4,fsdp=2` is short for its flags.

    Args:
      flags: the program's own, which are known too.

    Raises ValueError with one line: the flag, what is wrong with it, and the nearest known one.
    """
    arguments = list(arguments)
    if "-h" in arguments or "--help" in arguments:
        tyro.cli(
            type(config), default=config, args=["--help"], prog=prog, config=_STYLE, use_underscores=True
        )
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return tyro.cli(
                type(config), default=config, args=_expand_mesh(arguments), prog=prog, config=_STYLE
            )
    except SystemExit:
        known = [*_keys(config), "mesh", *flags]
        raise ValueError(_one_line(printed.getvalue(), known)) from None


_STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)


def _expand_mesh(arguments: list[str]) -> list[str]:
    expanded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag != "--mesh":
            expanded.append(argument)
            continue
        value = value if equals else next(rest, "")
        if not value or value.startswith("-"):
            raise ValueError("--mesh needs a value, such as data=4,fsdp=2")
        mesh = MeshConfig.parse(value)
        for field in dataclasses.fields(mesh):
            expanded += [f"--mesh.{field.name}", str(getattr(mesh, field.name))]
    return expanded


def _one_line(printed: str, known: Sequence[str]) -> str:
    """What tyro says in a box, as one line: the complaint and, for an unknown flag, the nearest known one."""
    lines = [_FRAME.sub(" ", line).strip() for line in printed.splitlines()]
    sections = "\n".join(lines).strip().split("\n\n")  # a rule of the box is now an empty line
    complaint = " ".join(sections[min(1, len(sections) - 1)].split())
    if unknown := re.match(r"Unrecognized options: --(\S+?)[,=]", complaint + ","):
        near = difflib.get_close_matches(unknown[1].replace("-", "_"), known, n=1, cutoff=0)[0]
        return f"no option --{unknown[1]}; did you mean --{near}?"
    return complaint


def _keys(config: object, prefix: str = "") -> list[str]:
    """Every key of a nested dataclass: `train.steps`."""
    keys: list[str] = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # a dataclass instance
        value = getattr(config, field.name)
        name = f"{prefix}{field.name}"
        keys += _keys(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return keys
