import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.decode import check
from benchmarks.floor import step_work
from benchmarks.measure import cores, in_turn, keep_to
from benchmarks.model import model_config, with_dtype
from vitjax.nn import functional

ROOT = Path(__file__).parents[2]


class Fixed:
    """A model that gives what it was made with."""

    def __init__(self, tokens: list[list[int]], logit: float = 0.0):
        self.tokens, self.logit = np.array(tokens), logit

    def generate(self, beams: int, tokens: int) -> np.ndarray:
        return self.tokens

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return np.full((*tokens.shape, 3), self.logit, np.float32)


def test_check_of_one_model() -> None:
    ours = Fixed([[1, 2], [1, 0]])
    assert check(ours, {"peer": Fixed([[1, 2], [1, 0]], 5e-5)}, [1, 5], 1) == pytest.approx(5e-5)
    with pytest.raises(
        SystemExit, match="same tokens: NO. peer, 5 beams, image 1: token 1 is 2, vitjax has 0"
    ):
        check(ours, {"same": ours, "peer": Fixed([[1, 2], [1, 2]])}, [5], 1)
    for off in (2e-4, float("nan")):
        with pytest.raises(SystemExit, match="logits differ"):
            check(ours, {"peer": Fixed([[1, 2], [1, 0]], off)}, [1], 1)


def test_work_of_a_step() -> None:
    """The matrices a step multiplies by, counted in the model itself."""
    config = model_config(small=True, max_length=65)
    decoder = functional.abstract(lambda rngs: config.build(rngs=rngs))[1]["decoder"]
    read = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(decoder):
        name = jax.tree_util.keystr(path)
        used_once = any(f"['cross_attention']['{part}']" in name for part in ("key", "value"))
        is_matrix = "'kernel'" in name or "'tokens'" in name
        read += leaf.size if is_matrix and not used_once else 0
    batch, beams, length, sources, width, depth = 8, 5, 36, 17, 128, 2
    numbers = read + 2 * depth * width * batch * (beams * length + sources)
    operations = 2 * batch * beams * (read + 2 * depth * width * (length + sources))
    work = step_work(config, batch=batch, beams=beams, length=length)
    assert (work.bytes, work.operations) == (4 * numbers, operations)
    half = step_work(with_dtype(config, "bfloat16"), batch=batch, beams=beams, length=length)
    assert half.bytes == 2 * numbers


def test_calls_take_turns() -> None:
    order: list[str] = []
    times = in_turn({name: lambda name=name: order.append(name) for name in "ab"}, rounds=2)
    assert order == ["a", "b"] * 3  # the first time to warm up
    assert [len(values) for values in times.values()] == [2, 2]


def test_more_threads_than_cores() -> None:
    with pytest.raises(SystemExit, match=f"may run on {len(cores())} cores"):
        keep_to(len(cores()) + 1)


def test_small_run_without_peers(tmp_path: Path) -> None:
    """One thread, and a table and a file with everything in them."""
    size = "--small --batch 1 --tokens 4 --beams 1 2 --rounds 1".split()
    command = [sys.executable, "-m", "benchmarks.decode", "--threads", "1", "--peers", "none", *size]
    result = subprocess.run(
        [*command, "--results", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "threads: 1, float32" in result.stdout and "floor/step" in result.stdout
    record = json.loads((tmp_path / "decode_small_cpu_1-thread_float32.json").read_text())
    assert record["machine"]["cores"] == record["setting"]["threads"] == 1
    assert set(record["step_ms"]["vitjax"]) == set(record["floor"]) == {"1", "2"}
    assert record["machine"].keys() >= {"device", "processor", "jax", "flax", "date"}
    assert "same_tokens" not in record
