"""What host memory it takes to load a checkpoint of several files onto a mesh, each process reading its own part.

    python -m benchmarks.load_memory --processes 4

Writes a ViT of 484 MiB of random float32 in five files, then starts the processes together, each with one CPU device
of an `fsdp` mesh, so that each holds its share of every matrix. The peak is what a process held at most while it read,
above what it held before (Linux only: VmHWM, reset first). What stays is the device's own copy, which on CPU is host
memory too.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.measure import machine, write
from vitjax.nn import functional
from vitjax.parallel import processes
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.paths import named_leaves
from vitjax.weights.folder import open_tensors, write_tensors
from vitjax.weights.table import Table
from vitjax.weights.vit import VIT

FIELDS = {"hidden_size": 1024, "num_hidden_layers": 10, "num_attention_heads": 16, "intermediate_size": 4096}
FILE_BYTES = 128 * 2**20
MIB = 2**20


class Random:
    """Numbers that are made when they are written."""

    dtype = np.dtype("float32")

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.random.default_rng(0).random(self.shape, np.float32)


def main() -> None:
    """Write a checkpoint, start the processes, print and store what they report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(load(options.child)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _, table = model()
        arrays = {name: Random(shape) for name, shape in table.expected.items()}
        before = start_counting()
        files = write_tensors(folder, arrays, file_bytes=FILE_BYTES)
        total = sum(file.stat().st_size for file in files)
        written = peak() - before
        print(f"{total / MIB:.0f} MiB in {len(files) - 1} files; writing them took {written / MIB:.0f} MiB")
        for count in options.processes:
            reports = together(count, folder)
            rows.append(
                {"processes": count, "share": reports[0]["held"], "peak": max(r["peak"] for r in reports)}
            )
            print("{processes} processes: a share is {share} MiB, peak {peak} MiB".format(**rows[-1]))
    record = {
        "machine": machine(),
        "mib": round(total / MIB),
        "writing": round(written / MIB),
        "loading": rows,
    }
    print(f"stored as {write('load_memory', record)}")


def model() -> tuple[Any, Table]:
    """Abstract parameters, and their places in the files."""
    config = VIT.read_config(FIELDS, {})
    _, params, _ = functional.abstract(lambda rngs: config.build(rngs=rngs))
    return params, Table(VIT.entries(config), named_leaves(params))


def load(folder: Path) -> dict[str, int]:
    """One process's part: MiB that its devices hold, and MiB at most while reading."""
    processes.initialize()
    mesh = make_mesh(MeshConfig(data=1, fsdp=jax.device_count()))
    params, table = model()
    jax.block_until_ready(jax.device_put(np.zeros(1)))
    tensors = open_tensors(folder)
    before = start_counting()
    arrays = jax.block_until_ready(table.read(tensors, params, mesh))
    held = sum(piece.data.nbytes for leaf in jax.tree.leaves(arrays) for piece in leaf.addressable_shards)
    return {"held": round(held / MIB), "peak": round((peak() - before) / MIB)}


def together(count: int, folder: str) -> list[dict[str, int]]:
    """What `count` processes report that load the folder as one program."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": address, "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "benchmarks.load_memory", "--child", folder]
    running = [
        subprocess.Popen(
            command,
            env={**environment, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def start_counting() -> int:
    """Bytes held now; `peak` counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Bytes held at most since `start_counting`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[name].split()[0])


if __name__ == "__main__":
    main()
