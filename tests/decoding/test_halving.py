"""Rows that are done early are left behind, and nobody's result changes."""

import jax
import numpy as np
import pytest

from tests.decoding.decoders import SlotDecoder
from vitjax.decoding import GenerationConfig, generate, loop
from vitjax.nn.functional import split

ROWS = 32
STEPS: list[tuple[int, int]] = []


class CountingDecoder(SlotDecoder):
    """Tells the host how many rows each step has."""

    def step(self, cache, tokens):
        jax.debug.callback(lambda position: STEPS.append((int(position), len(tokens))), cache.position)
        return super().step(cache, tokens)


def table():
    """Every state likes EOS more or less, so that lengths differ a lot."""
    random = np.random.default_rng(0)
    table = random.normal(size=(4093, 12)).astype(np.float32) * 3
    table[:, 2] += random.choice([-6.0, 1.0], size=4093, p=[0.8, 0.2])
    return table


OPTIONS = {
    "greedy": {},
    "beam": {"num_beams": 3, "num_return_sequences": 2},
    "sample": {"do_sample": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("padded", [False, True])
def test_rows_that_are_done_are_left_behind(kind, padded, monkeypatch):
    config = GenerationConfig(
        max_new_tokens=70, eos_token_id=2, pad_token_id=0, early_stopping=True, **OPTIONS[kind]
    )
    key = jax.random.key(1) if config.do_sample else None
    prompt = np.arange(ROWS * 2).reshape(ROWS, 2) % 11 + 1
    mask = np.stack([np.arange(ROWS) % 3 > 0, np.ones(ROWS, bool)], axis=1) if padded else None
    source = np.arange(ROWS, dtype=np.int32)[:, None]

    def run():
        STEPS.clear()
        definition, params, _ = split(CountingDecoder(table()))
        out = generate(definition, params, source, prompt=prompt, prompt_mask=mask, key=key, config=config)
        jax.effects_barrier()
        return out, sorted(STEPS)

    out, steps = run()
    rows = [count for _, count in steps]
    lengths = np.sort(np.asarray(out.lengths).max(axis=1))
    assert rows == sorted(rows, reverse=True) and set(rows) == {ROWS, ROWS // 2}
    assert [position for position, _ in steps] == list(range(2, 2 + len(steps)))
    if kind != "beam":  # whole until the 16th row has its last token, then the others
        assert rows.count(ROWS) == lengths[ROWS // 2 - 1] - 3
        assert len(rows) == lengths[-1] - 3

    monkeypatch.setattr(loop, "FEWEST_TO_HALVE", ROWS + 1)
    jax.clear_caches()
    whole, steps = run()
    assert {count for _, count in steps} == {ROWS}
    jax.tree.map(np.testing.assert_array_equal, out, whole)


def test_small_batches_and_batches_on_several_devices_stay_together():
    """Picking rows of a batch that lies on several devices would move the whole cache."""
    config = GenerationConfig(max_new_tokens=40, eos_token_id=2, decoder_start_token_id=1)
    definition, params, _ = split(CountingDecoder(table()))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    source = np.arange(ROWS, dtype=np.int32)[:, None]
    for rows, arguments in ((8, (params, source[:8])), (ROWS, (whole, jax.device_put(source, place)))):
        STEPS.clear()
        generate(definition, *arguments, config=config)
        jax.effects_barrier()
        assert {count for _, count in STEPS} == {rows}
