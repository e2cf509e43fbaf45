import math
import os
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from vitjax.studies.lab import programs
from vitjax.studies.lab.devices import on_cores, with_devices
from vitjax.studies.lab.programs import Program, seconds

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: programs move it by what they take."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(programs, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_the_shortest_of_rounds_in_which_all_take_turns(clock):
    turns = []

    def takes(name, *durations):
        left = iter(durations)

        def run(seed):
            turns.append((name, seed))
            clock.now += next(left)

        return run

    # of each pair the first, when the caches are cold, does not count; nor does the first pair
    found = seconds(
        {
            "a": takes("a", 90.0, 1.0, 90.0, 4.0, 90.0, 3.0, 90.0, 5.0, 1.0, 6.0),
            "b": takes("b", 90.0, 2.0, 1.0, 20.0, 1.0, 30.0, 1.0, 60.0, 1.0, 50.0),
        },
        2,
        rounds=2,
    )
    assert {name: spread.values for name, spread in found.items()} == {"a": (3.0, 5.0), "b": (20.0, 50.0)}
    assert turns[::2] == [(name, seed) for seed in (0, 0, 0, 1, 1) for name in "ab"]


def test_a_fast_program_runs_several_times_in_a_turn(clock):
    calls = []

    def run(seed):
        calls.append(seed)
        clock.now += 0.25

    assert seconds({"fast": run}, 3, rounds=2, least=1.0)["fast"].values == (0.25,) * 3
    assert len(calls) == 2 + 3 * 2 * (1 + 4)


def test_as_many_cores_as_devices(monkeypatch):
    cores, others = [], []

    @contextmanager
    def kept(count):
        cores.append(count)
        yield

    monkeypatch.setattr(programs, "on_cores", kept)
    twice = Program(lambda: others.append(0), ((),), devices=2)
    seconds({"two devices": twice, "any": lambda seed: None}, 1, rounds=1, least=0.0)
    assert cores == [2, None] * 2


def test_a_program_is_compiled_once_for_all_seeds():
    traced = []

    def product(a, b):
        traced.append(a.shape)
        return jnp.tanh(a @ b)

    given = [(jnp.full((8, 16), seed), jnp.ones((16, 4))) for seed in (0.0, 0.01)]
    program = Program.of(product, *given)
    assert [float(program(seed)[0, 0]) for seed in (0, 1)] == pytest.approx([0.0, math.tanh(0.16)])
    assert traced == [(8, 16)]
    assert program.flops == pytest.approx(2 * 8 * 16 * 4, rel=0.1)
    assert program.transcendentals == 8 * 4


def test_memory_is_what_lies_between():
    """All pairs of 1,000 numbers are 4 MB, which neither go in nor come out."""

    def pairs(x):
        return jax.lax.map(lambda one: jnp.sort(one * x), x).sum()

    assert 4e6 <= Program.of(pairs, (jnp.ones((1000,)),)).memory < 5e6


def test_arguments_of_one_seed_serve_all():
    assert Program(lambda x: x, ((7,),))(seed=2) == 7
    with pytest.raises(IndexError):
        Program(lambda x: x, ((7,), (8,)))(seed=2)


@pytest.mark.skipif(CORES < 2, reason="one core cannot be told from all")
def test_all_threads_keep_to_the_cores():
    jax.block_until_ready(jnp.ones((512, 512)) @ jnp.ones((512, 512)))  # by threads that are there already
    allowed = os.sched_getaffinity(0)

    def cores():
        return {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")}

    with on_cores(1):
        born = []
        thread = threading.Thread(target=lambda: born.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert cores() == {frozenset(born[0])} and len(born[0]) == 1
    assert cores() == {frozenset(allowed)}
    with on_cores(None):
        assert cores() == {frozenset(allowed)}


def test_devices_that_are_there_need_no_other_process():
    assert with_devices(jax.device_count(), os.getpid) == os.getpid()
    assert with_devices(jax.device_count() + 1, os.getpid) != os.getpid()


def test_devices_that_are_not_there():
    more = jax.device_count() + 1
    assert with_devices(more, jax.device_count) == more
    with pytest.raises(RuntimeError, match=rf"failed over {more} devices(.|\n)*No such file"):
        with_devices(more, os.listdir, "/nowhere")
