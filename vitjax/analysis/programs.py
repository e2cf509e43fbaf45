"""Reads programs: what must happen one after another, and what devices tell each other, and the host."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

PRODUCTS = ("dot_general", "conv_general_dilated")
COLLECTIVE = re.compile(
    r" = (?P<shapes>.*?) (?P<kind>all-gather|all-reduce|all-to-all|ragged-all-to-all|reduce-scatter|"
    r"collective-permute|collective-broadcast|send|recv)(?:-start)?\("
)
HOST = re.compile(r"callback|infeed|outfeed|is_host_transfer=true|MoveToHost|MoveToDevice|:S\(5\)|S\(5\)\}")


def longest_chain(function: Callable[..., Any], *arguments: Any, iterations: int = 0) -> int:
    """Matrix products (and convolutions) of a function that wait for each other, one after another at best.

    What no number of devices can do at once: the depth of the computation, with all that lies between the products left
    out. Nothing is computed.

    Args:
      arguments: arrays or `jax.ShapeDtypeStruct`s.
      iterations: of each `while` loop, whose number the program alone does not tell.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return max(_depths(jaxpr, [0] * len(jaxpr.invars), iterations), default=0)


def _depths(jaxpr: Jaxpr, inputs: list[int], iterations: int) -> list[int]:
    """The chain that ends in each output, given those that end in the inputs."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def depth(variable: Any) -> int:
        return 0 if isinstance(variable, Literal) else known.get(variable, 0)

    for equation in jaxpr.eqns:
        found = _of_equation(equation, [depth(variable) for variable in equation.invars], iterations)
        known.update(zip(equation.outvars, found, strict=True))
    return [depth(variable) for variable in jaxpr.outvars]


def _of_equation(equation: Any, inputs: list[int], iterations: int) -> list[int]:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        body = params["jaxpr"].jaxpr
        # What is scanned over, and what is stacked, has one axis more outside than inside.
        carried = sum(map(_same_rank, equation.outvars, body.outvars))
        end = sum(map(_same_rank, equation.invars, body.invars))
        rest = inputs[: end - carried], inputs[end:]
        return _repeated(body, inputs[end - carried : end], rest, params["length"], iterations)
    if name == "while":
        before = params["cond_nconsts"]
        consts = before + params["body_nconsts"]
        rest = inputs[before:consts], []
        return _repeated(params["body_jaxpr"].jaxpr, inputs[consts:], rest, iterations, iterations)
    if name == "cond":
        ways = [_depths(branch.jaxpr, inputs[1:], iterations) for branch in params["branches"]]
        return [max(inputs[0], *way) for way in zip(*ways, strict=True)]
    for value in params.values():
        inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
        if isinstance(inner, Jaxpr) and len(inner.invars) == len(inputs):
            return _depths(inner, inputs, iterations)
    return [max(inputs, default=0) + (name in PRODUCTS)] * len(equation.outvars)


def _same_rank(outside: Any, inside: Any) -> bool:
    return outside.aval.ndim == inside.aval.ndim


def _repeated(
    body: Jaxpr, carry: list[int], rest: tuple[list[int], list[int]], times: int, iterations: int
) -> list[int]:
    """Of a loop: what it carries, then what each iteration adds; `rest` stands before and behind the carry."""
    stacked = [0] * (len(body.outvars) - len(carry))
    for _ in range(times):
        out = _depths(body, [*rest[0], *carry, *rest[1]], iterations)
        carry, stacked = out[: len(carry)], list(map(max, stacked, out[len(carry) :]))
    return [*carry, *stacked]


class Collective(NamedTuple):
    """`elements` and `bytes` of what one device holds after it: all pieces together."""

    kind: str
    elements: int
    bytes: int


def collectives(lines: list[str]) -> list[Collective]:
    """The collectives among a compiled program's instructions; an asynchronous one counts once, where it starts."""
    found = []
    for match in filter(None, map(COLLECTIVE.search, lines)):
        arrays = [
            (math.prod(int(n) for n in shape.split(",") if n), _bytes(dtype))
            for dtype, shape in re.findall(r"([a-z]\w*)\[([\d,]*)\]", match["shapes"])
        ]
        elements = sum(size for size, _ in arrays)
        found.append(Collective(match["kind"], elements, sum(size * width for size, width in arrays)))
    return found


def host_calls(lines: list[str]) -> list[str]:
    """The instructions by which a program talks to its host."""
    return [line for line in lines if HOST.search(line)]


def in_loops(program: str) -> list[str]:
    """The instructions of all while loops of an optimised HLO program, and of all that these call, without metadata."""
    return _instructions(program)[0]


def outside_loops(program: str) -> list[str]:
    """The other instructions of the program."""
    return _instructions(program)[1]


def _instructions(program: str) -> tuple[list[str], list[str]]:
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
    looped = [line for name in seen for line in computations[name]]
    return looped, [line for name, lines in computations.items() if name not in seen for line in lines]


def _bytes(dtype: str) -> int:
    """Of one element: "f32" -> 4, "pred" -> 1."""
    bits = re.search(r"\d+", dtype)
    return -(-int(bits[0]) // 8) if bits else 1
