"""Optimizers against NumPy restatements, on trees shaped as the models' are: blocks stacked along a leading axis."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tyro

from vitjax.training.optimizer import (
    OptimizerConfig,
    decay_mask,
    ema_decay,
    ema_update,
    layer_multipliers,
    make_optimizer,
    make_schedule,
)

L, D = 3, 4
STEPS = 12


def tree(seed, scale=1.0):
    """A small encoder with a head, in the models' own paths."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return (scale * rng.normal(size=shape)).astype(np.float32)

    return {
        "encoder": {
            "patch_embedding": {"projection": {"kernel": array(2, 2, 3, D), "bias": array(D)}},
            "positions": {"embedding": array(6, D)},
            "class_token": array(1, 1, D),
            "blocks": {
                "attention": {"query": {"kernel": array(L, D, 2, 2), "bias": array(L, 2, 2)}},
                "norm": {"scale": array(L, D), "bias": array(L, D)},
                "layer_scale": {"scale": array(L, D)},
            },
            "relative_bias": {"embedding": array(9, 2)},
            "norm": {"scale": array(D)},
        },
        "head": {"kernel": array(D, 5), "bias": array(5)},
    }


def flat(pytree):
    leaves = jax.tree_util.tree_leaves_with_path(pytree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def run(config, params, gradients, total_steps=STEPS):
    transformation, _ = make_optimizer(config, jax.eval_shape(lambda: params), total_steps)
    state = transformation.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


# --- the update rules, restated for one array in float64


def adamw(p, gradients, rates, decay, b1=0.9, b2=0.999, eps=1e-8):
    m = v = 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p = p - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)
    return p


def lion(p, gradients, rates, decay, b1=0.9, b2=0.99):
    m = 0.0
    for g, rate in zip(gradients, rates, strict=True):
        p = p - rate * (np.sign(b1 * m + (1 - b1) * g) + decay * p)
        m = b2 * m + (1 - b2) * g
    return p


def sgd(p, gradients, rates, decay, momentum=0.9):
    """torch.optim.SGD with a weight decay: it enters the momentum."""
    m = 0.0
    for g, rate in zip(gradients, rates, strict=True):
        m = momentum * m + g + decay * p
        p = p - rate * m
    return p


@pytest.mark.parametrize("rule", [adamw, lion, sgd])
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_update_rules(rule, layer_decay):
    config = OptimizerConfig(
        name=rule.__name__, learning_rate=0.02, warmup_steps=3, weight_decay=0.3, layer_decay=layer_decay
    )
    params, gradients = tree(0), [tree(seed) for seed in range(1, STEPS + 1)]
    result, _ = run(config, params, gradients)

    steps = np.arange(STEPS)
    cosine = 0.5 * (1 + np.cos(np.pi * np.maximum(steps - 3, 0) / (STEPS - 3)))
    rates = 0.02 * np.minimum(1, (steps + 1) / 3) * cosine
    per_block = (layer_decay ** (L - np.arange(L))).reshape(L, 1)
    for path, start in flat(params).items():
        here = [flat(gradient)[path].astype(np.float64) for gradient in gradients]
        factor = np.array(1.0)
        if "blocks" in path:
            factor = per_block.reshape(L, *[1] * (start.ndim - 1))
        elif any(name in path for name in ("patch_embedding", "positions", "class_token")):
            factor = np.array(layer_decay ** (L + 1))
        decay = 0.3 if path.endswith("kernel") else 0.0
        expected = rule(start.astype(np.float64), here, [rate * factor for rate in rates], decay)
        np.testing.assert_allclose(flat(result)[path], expected, rtol=1e-4, atol=2e-6, err_msg=path)


def test_nesterov_and_no_momentum():
    params = {"kernel": np.ones(2, np.float32)}
    gradients = [{"kernel": np.array([1.0, -2.0], np.float32)}] * 2
    base = OptimizerConfig(name="sgd", learning_rate=0.1, schedule="constant")
    plain, _ = run(dataclasses.replace(base, momentum=0.0), params, gradients)
    np.testing.assert_allclose(plain["kernel"], [0.8, 1.4], rtol=1e-6)
    nesterov, _ = run(dataclasses.replace(base, nesterov=True), params, gradients)
    # m = g, then 1.9 g; nesterov steps by g + 0.9 m: 1.9 g, then 2.71 g
    np.testing.assert_allclose(nesterov["kernel"], [1 - 0.461, 1 + 0.922], rtol=1e-6)


def test_adafactor_first_step_and_second():
    """Shazeer and Stern 2018 without parameter scaling: factored second moment, update clipping at RMS 1, momentum."""
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(40, 50)).astype(np.float32) * size for size in (1.0, 3.0)]
    config = OptimizerConfig(name="adafactor", learning_rate=0.1, schedule="constant")
    result, _ = run(config, {"kernel": jnp.zeros((40, 50))}, [{"kernel": g} for g in gradients])

    p, momentum, row, column = 0.0, 0.0, np.zeros(40), np.zeros(50)
    for t, g in enumerate(gradients, 1):
        g = g.astype(np.float64)
        beta2 = min(0.999, 1 - t**-0.8)
        row = beta2 * row + (1 - beta2) * (g**2 + 1e-30).mean(axis=1)
        column = beta2 * column + (1 - beta2) * (g**2 + 1e-30).mean(axis=0)
        update = g / np.sqrt(row[:, None] * column[None, :] / row.mean())
        update /= max(1.0, np.sqrt(np.mean(update**2)))
        momentum = 0.9 * momentum + 0.1 * update
        p = p - 0.1 * momentum
    np.testing.assert_allclose(result["kernel"], p, rtol=1e-4, atol=1e-6)


def test_adafactor_treats_each_stacked_layer_as_an_array_of_its_own():
    depth, width = 34, 36
    rng = np.random.default_rng(0)

    def layers():
        sizes = 10.0 ** np.linspace(-3, 0, depth)  # layers of very different gradients
        kernel = rng.normal(size=(depth, width, 40)) * sizes[:, None, None]
        return {"kernel": kernel.astype(np.float32), "bias": (kernel[:, :, 0]).astype(np.float32)}

    params, gradients = layers(), [layers() for _ in range(3)]
    config = OptimizerConfig(name="adafactor", learning_rate=0.1, weight_decay=0.1)

    def twice(blocks):
        return {"encoder": {"blocks": blocks}, "decoder": {"blocks": blocks}}

    def take(blocks, layer):
        return {name: array[layer] for name, array in blocks.items()}

    stacked, state = run(config, twice(params), [twice(gradient) for gradient in gradients])
    for layer in (0, 7, depth - 1):
        one, _ = run(config, take(params, layer), [take(gradient, layer) for gradient in gradients])
        for part in ("encoder", "decoder"):
            for name in ("kernel", "bias"):
                here = stacked[part]["blocks"][name][layer]
                where = f"{part} {name} {layer}"
                np.testing.assert_allclose(here, one[name], rtol=1e-5, atol=1e-7, err_msg=where)
    factors = [leaf.size for path, leaf in flat(state).items() if "v_row" in path or "v_col" in path]
    assert sum(factors) < 2 * depth * (width + 40 + 10), "kernels must be factored"


def test_clipping_is_by_the_norm_of_the_whole_tree():
    params, gradient = tree(0), tree(1, scale=5.0)
    norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in flat(gradient).values()))
    base = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant", momentum=0.0)
    for limit in (1.0, 2 * float(norm)):
        result, _ = run(dataclasses.replace(base, clip_norm=limit), params, [gradient])
        scale = min(1, limit / norm)
        for path, start in flat(params).items():
            np.testing.assert_allclose(flat(result)[path], start - scale * flat(gradient)[path], atol=2e-6)


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd", "adafactor"])
def test_first_moment_dtype(name):
    config = OptimizerConfig(name=name, moment_dtype="bfloat16", weight_decay=0.1, layer_decay=0.9)
    params, state = run(config, tree(0), [tree(1)])
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    halves = [path for path, leaf in flat(state).items() if leaf.dtype == jnp.bfloat16]
    assert len(halves) == len(jax.tree.leaves(params)), "one first moment for each array, and nothing else"


# --- schedules


def test_schedules_restated():
    total, warmup = 100, 10
    for schedule in ("constant", "cosine", "rsqrt"):
        cooldown = 0 if schedule == "cosine" else 20
        config = OptimizerConfig(
            learning_rate=0.3,
            schedule=schedule,
            warmup_steps=warmup,
            cooldown_steps=cooldown,
            rsqrt_timescale=50,
            final_fraction=0.1,
        )
        rate = make_schedule(config, total)
        for step in range(total):
            late = max(step - warmup, 0)
            expected = {
                "constant": 1.0,
                "cosine": 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * late / (total - warmup))),
                "rsqrt": 1 / np.sqrt(1 + late / 50),
            }[schedule]
            expected *= min(1, (step + 1) / warmup)
            if cooldown:
                expected *= min(1, (total - step) / cooldown)
            np.testing.assert_allclose(rate(step), 0.3 * expected, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "rsqrt"])
def test_every_update_moves_and_the_end_is_the_end(schedule):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=7)
    rate = jax.jit(make_schedule(config, 50))
    rates = np.array([rate(step) for step in range(51)])
    assert np.all(rates[:50] > 0) and rates.max() == 1.0 and rates[6] == rates[7] == 1.0
    assert np.all(np.diff(rates[:7]) > 0) and np.all(np.diff(rates[7:]) <= 0)
    assert schedule != "cosine" or rates[50] == pytest.approx(0, abs=1e-7)


def test_the_schedule_is_what_the_updates_use():
    config = OptimizerConfig(name="sgd", momentum=0.0, learning_rate=0.5, warmup_steps=2)
    transformation, schedule = make_optimizer(config, {"kernel": jnp.zeros(1)}, 9)
    params, state = {"kernel": jnp.zeros(1)}, transformation.init({"kernel": jnp.zeros(1)})
    for step in range(9):
        updates, state = transformation.update({"kernel": jnp.ones(1)}, state, params)
        np.testing.assert_allclose(-updates["kernel"][0], schedule(step), rtol=1e-6)


def test_schedules_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit into 10 steps"):
        make_schedule(OptimizerConfig(warmup_steps=11), 10)
    with pytest.raises(ValueError, match="do not fit"):
        make_schedule(OptimizerConfig(schedule="rsqrt", warmup_steps=6, cooldown_steps=5), 10)
    with pytest.raises(ValueError, match="total_steps is 0"):
        make_schedule(OptimizerConfig(), 0)
    assert make_schedule(OptimizerConfig(warmup_steps=10), 10)(9) == pytest.approx(1e-3)


# --- which array gets what


def test_decay_goes_by_name_not_by_number_of_axes():
    decayed = {path for path, value in flat(decay_mask(tree(0))).items() if value}
    assert decayed == {
        "encoder/patch_embedding/projection/kernel",
        "encoder/blocks/attention/query/kernel",
        "head/kernel",
    }


def test_layer_multipliers_are_beits():
    """microsoft/unilm beit: num_layers = depth + 2, scale = decay ** (num_layers - 1 - layer_id)."""

    def layer_id(name, num_layers):
        if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
            return 0
        if name.startswith("blocks"):
            return int(name.split(".")[1]) + 1
        return num_layers - 1

    def scale(name):
        return 0.75 ** (L + 2 - 1 - layer_id(name, L + 2))

    ours = flat(layer_multipliers(tree(0), 0.75))
    blocks = [scale(f"blocks.{i}.norm") for i in range(L)]
    expected = {
        "encoder/class_token": scale("cls_token"),
        "encoder/positions/embedding": scale("pos_embed"),
        "encoder/patch_embedding/projection/kernel": scale("patch_embed.proj"),
        "encoder/blocks/norm/scale": np.reshape(blocks, (L, 1)),
        "encoder/blocks/attention/query/kernel": np.reshape(blocks, (L, 1, 1, 1)),
        "encoder/norm/scale": scale("norm"),
        "encoder/relative_bias/embedding": scale("norm"),  # rel_pos_bias: num_layers - 1
        "head/kernel": scale("head"),
    }
    for path, value in expected.items():
        np.testing.assert_allclose(ours[path], value, rtol=1e-6, err_msg=path)


def test_encoder_and_decoder_count_their_own_depth():
    params = {
        "encoder": {"patch_embedding": {"kernel": np.zeros((2, 2))}, "blocks": {"kernel": np.zeros((4, 2))}},
        "decoder": {
            "embedding": {"tokens": {"embedding": np.zeros((9, 2))}},
            "blocks": {"kernel": np.zeros((2, 2))},
        },
        "embedding": {"embedding": np.zeros((9, 2))},
        "head": {"kernel": np.zeros((2, 9))},
    }
    ours = flat(layer_multipliers(params, 0.5))
    assert ours["encoder/patch_embedding/kernel"] == 0.5**5
    assert ours["decoder/embedding/tokens/embedding"] == 0.5**3
    assert ours["embedding/embedding"] == 1, "of a recurrent decoder over the encoder"
    np.testing.assert_array_equal(ours["encoder/blocks/kernel"].ravel(), [0.5**4, 0.5**3, 0.5**2, 0.5])
    np.testing.assert_array_equal(ours["decoder/blocks/kernel"].ravel(), [0.25, 0.5])
    assert ours["head/kernel"] == 1


def test_factors_move_and_shrink_as_their_kernels():
    kernel = {"a": np.zeros((L, D, 2)), "b": np.zeros((L, 2, D))}
    params = {
        "positions": {"embedding": np.zeros((6, D))},
        "lora": {
            "blocks": {"up": {"kernel": kernel}},
            "patch_embedding": {"kernel": {"a": np.zeros((2, 2))}},
        },
    }
    assert [path for path, value in flat(decay_mask(params)).items() if not value] == ["positions/embedding"]
    ours = flat(layer_multipliers(params, 0.5))
    np.testing.assert_array_equal(ours["lora/blocks/up/kernel/b"].ravel(), [0.125, 0.25, 0.5])
    assert ours["positions/embedding"] == ours["lora/patch_embedding/kernel/a"] == 0.5 ** (L + 1)


def test_layer_decay_without_blocks_is_refused():
    with pytest.raises(ValueError, match="layer_decay is 0.5"):
        make_optimizer(OptimizerConfig(layer_decay=0.5), {"head": {"kernel": np.zeros((2, 2))}}, 10)


# --- the average


def test_ema_restated():
    values = np.random.default_rng(0).normal(size=30).astype(np.float32)
    ema, expected = {"kernel": jnp.array([5.0])}, 5.0
    update = jax.jit(ema_update, static_argnames="decay")
    for step, value in enumerate(values, 1):
        ema = update(ema, {"kernel": jnp.array([value])}, 0.8, step)
        decay = min(0.8, 1 - (1 + step) ** (-2 / 3))  # timm ModelEmaV3, gamma 1, power 2/3
        expected = decay * expected + (1 - decay) * value
    np.testing.assert_allclose(ema["kernel"][0], expected, rtol=1e-5)
    assert ema_decay(0.8, 0) == 0 and ema_decay(0.8, 10**6) == np.float32(0.8)


def test_ema_of_bfloat16_parameters_is_computed_in_float32():
    ema = {"kernel": jnp.full(3, 1.001)}  # 1 in bfloat16
    moved = ema_update(ema, {"kernel": jnp.full(3, 2, jnp.bfloat16)}, 0.5, 10**6)
    assert moved["kernel"].dtype == jnp.float32
    np.testing.assert_allclose(moved["kernel"], 1.5005, rtol=1e-6)


# --- the config


@pytest.mark.parametrize(
    "fields",
    [
        {"learning_rate": 0.0},
        {"warmup_steps": -1},
        {"cooldown_steps": 5},
        {"rsqrt_timescale": 0},
        {"final_fraction": 1.5},
        {"weight_decay": -0.1},
        {"layer_decay": 0.0},
        {"clip_norm": -1.0},
        {"beta1": 1.0},
        {"beta2": -0.5},
        {"eps": -1.0},
        {"momentum": 1.0},
    ],
)
def test_bad_values_are_refused_by_name(fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=rf"optimizer\.{name} is {value}"):
        OptimizerConfig(**fields)


def test_command_line_overrides():
    config = tyro.cli(OptimizerConfig, args=["--name", "lion", "--beta2", "0.95", "--learning-rate", "1e-4"])
    assert (config.name, config.beta2, config.learning_rate) == ("lion", 0.95, 1e-4)
    with pytest.raises(SystemExit):
        tyro.cli(OptimizerConfig, args=["--name", "adam"])
