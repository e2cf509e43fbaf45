"""The device mesh: four named axes, sized by a small config."""

import dataclasses
import difflib
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "beam", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many ways each axis splits the work; -1 on one axis means "what remains".

    Attributes:
        data: copies of the parameters, each with its own part of the batch.
        fsdp: parts of the batch that also hold only a part of every parameter (ZeRO-3).
        beam: parts of the beams of each row, in beam search; training has no use for it.
        tensor: parts of heads, feed-forward width and vocabulary (Megatron-LM).
    """

    data: int = -1
    fsdp: int = 1
    beam: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for axis in AXES:
            size = getattr(self, axis)
            if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
                raise ValueError(
                    f"mesh axis {axis}={size!r}: expected a positive whole number, or -1 for what remains"
                )
        if sum(getattr(self, axis) == -1 for axis in AXES) > 1:
            raise ValueError(f"mesh {self}: only one axis can be -1 (what remains); give the others a size")

    def __str__(self) -> str:
        return ",".join(f"{axis}={getattr(self, axis)}" for axis in AXES)

    @classmethod
    def parse(cls, text: str) -> "MeshConfig":
        """Reads "data=4,fsdp=2"; axes left out keep their default (`data` takes what remains, the others are 1).

        Raises:
            ValueError: an unknown axis (the nearest known one is named), an axis given twice, not a number.
        """
        sizes: dict[str, int] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            axis, equals, size = (piece.strip() for piece in part.partition("="))
            if not equals:
                raise ValueError(f"mesh {text!r}: {part!r} is not axis=size; write it like data=4,fsdp=2")
            if axis not in AXES:
                near = difflib.get_close_matches(axis, AXES, n=1, cutoff=0)[0]
                raise ValueError(
                    f"mesh {text!r}: no axis {axis!r}; did you mean {near!r}? Axes: {', '.join(AXES)}"
                )
            if axis in sizes:
                raise ValueError(f"mesh {text!r}: axis {axis!r} is given twice; name it once")
            try:
                sizes[axis] = int(size)
            except ValueError:
                raise ValueError(f"mesh {text!r}: {axis}={size!r} is not a whole number") from None
        return cls(**sizes)

    @property
    def devices_needed(self) -> int | None:
        """The number of devices this split takes; None where an axis takes what remains."""
        sizes = [getattr(self, axis) for axis in AXES]
        return None if -1 in sizes else math.prod(sizes)

    def sizes(self, device_count: int) -> dict[str, int]:
        """The size of every axis on `device_count` devices, all of them used.

        Raises:
            ValueError: the split does not come out at exactly `device_count`.
        """
        given = {axis: getattr(self, axis) for axis in AXES}
        taken = math.prod(size for size in given.values() if size != -1)
        if -1 not in given.values():
            if taken != device_count:
                raise ValueError(
                    f"mesh {self} takes {taken} devices, found {device_count}: "
                    "make the product of the axes the number of devices, or set one axis to -1"
                )
            return given
        if device_count % taken:
            raise ValueError(
                f"mesh {self} does not divide {device_count} devices: {device_count} is not a multiple of {taken}; "
                "choose sizes whose product divides the number of devices"
            )
        return {axis: device_count // taken if size == -1 else size for axis, size in given.items()}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes (data, fsdp, beam, tensor) over `devices` (default: all of every process).

    Axes are `AxisType.Auto`: the compiler places what the rules leave open. `jax.make_mesh` orders the devices so
    that the last axis, which talks most, has the nearest neighbours.

    Raises:
        ValueError: the split does not come out at the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = config.sizes(len(devices))
    return jax.make_mesh(
        tuple(sizes.values()), AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES)
    )
