"""Reads compiled programs: what devices tell each other, and the host, inside loops."""

import math
import re
from typing import NamedTuple

COLLECTIVE = re.compile(
    r" = (?P<shapes>.*?) (?P<kind>all-gather|all-reduce|all-to-all|ragged-all-to-all|reduce-scatter|"
    r"collective-permute|collective-broadcast|send|recv)(?:-start)?\("
)
HOST = re.compile(r"callback|infeed|outfeed|is_host_transfer=true|MoveToHost|MoveToDevice|:S\(5\)|S\(5\)\}")


class Collective(NamedTuple):
    """`elements` of what one device holds after it: all pieces together."""

    kind: str
    elements: int


def collectives(lines: list[str]) -> list[Collective]:
    """The collectives among a program's instructions; an asynchronous one counts once, where it starts."""
    found = []
    for match in filter(None, map(COLLECTIVE.search, lines)):
        shapes = re.findall(r"\w+\[([\d,]*)\]", match["shapes"])
        sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]
        found.append(Collective(match["kind"], sum(sizes)))
    return found


def host_calls(lines: list[str]) -> list[str]:
    """The instructions by which a program talks to its host."""
    return [line for line in lines if HOST.search(line)]


def in_loops(program: str) -> list[str]:
    """The instructions of all while loops of an optimised HLO program, and of all that these call, without metadata."""
    computations: dict[str, list[str]] = {}
    name = ""
    for line in program.splitlines():
        if opening := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = opening[1]
            computations[name] = []
        elif name and line.startswith("  "):
            computations[name].append(line.strip().split(", metadata={")[0])

    def called(line: str) -> list[str]:
        return [word for word in re.findall(r"%([\w.\-]+)", line) if word in computations]

    everything = [line for lines in computations.values() for line in lines]
    waiting = [name for line in everything if " while(" in line for name in called(line)]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [other for line in computations[name] for other in called(line)]
    return [line for name in seen for line in computations[name]]
