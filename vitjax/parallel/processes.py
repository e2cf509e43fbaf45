"""Several processes, one program: start them, agree between them."""

import dataclasses
import os

import jax
import numpy as np
from jax.experimental import multihost_utils


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """How this process finds the others. All defaults: it is alone.

    Attributes:
        coordinator: "host:port" of process 0; "auto" where a cluster tells (SLURM, Kubernetes, Open MPI, Cloud TPU).
            Default: the environment's JAX_COORDINATOR_ADDRESS.
        count: number of processes. Default: the environment's JAX_NUM_PROCESSES, else what the cluster says.
        index: this process, from 0. Default: the environment's JAX_PROCESS_ID, else what the cluster says.
        heartbeat_seconds: a process unheard of for so long is lost, and all others stop.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    heartbeat_seconds: int = 100


def initialize(config: ProcessConfig = ProcessConfig()) -> None:  # noqa: B008  (frozen)
    """Joins the other processes, before anything runs on a device. Does nothing alone, or when already joined.

    Raises:
        ValueError: the coordinator, the number of processes or this one's index is missing or makes no sense, or the
            devices are already in use.
    """
    if jax.distributed.is_initialized():
        return
    coordinator = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    count = _number(config.count, "count", "JAX_NUM_PROCESSES")
    index = _number(config.index, "index", "JAX_PROCESS_ID")
    if coordinator is None:
        if (count or 1) > 1:
            raise ValueError(
                f"{count} processes asked for but no coordinator: give host:port of process 0, "
                "by flag or JAX_COORDINATOR_ADDRESS"
            )
        return
    if count is not None and index is not None and not 0 <= index < count:
        raise ValueError(f"process index {index} of {count} processes: expected 0 to {count - 1}")
    try:
        jax.distributed.initialize(
            None if coordinator == "auto" else coordinator,
            num_processes=count,
            process_id=index,
            heartbeat_timeout_seconds=config.heartbeat_seconds,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"could not join coordinator {coordinator} as process {index} of {count}: {_first_line(error)}; "
            "give coordinator, count and index by flag or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"
        ) from error


def process_index() -> int:
    """This process's number, from 0."""
    return jax.process_index()


def process_count() -> int:
    """The number of processes that run this program together."""
    return jax.process_count()


def is_primary() -> bool:
    """Whether this is process 0: the one that writes logs and seals checkpoints."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has come here under the same name. For the main thread."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
    """Whether `flag` is true on any process; the same answer everywhere.

    Every process must call it at the same place. With several processes it waits for the devices, so a loop should
    ask every few steps, not each one.
    """
    if jax.process_count() == 1:
        return bool(flag)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag, dtype=np.int32))))


def from_primary(value: int) -> int:
    """Process 0's `value` (a number that fits int32), on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, dtype=np.int32)))


def _number(given: int | None, name: str, variable: str) -> int | None:
    text = os.environ.get(variable)
    if given is not None or not text:
        return given
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{variable}={text!r}: expected a whole number (process {name})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
