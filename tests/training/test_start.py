"""Runs that start from a checkpoint: what is taken, to the bit, what is new, and what a resume needs."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import vitjax
from tests.prepared import train_alone, with_data, write_run
from tests.training.runs import classifier, noise, residual, transcriber
from tests.training.test_loop import assert_same_state, crash_after, with_model, with_train
from vitjax.data.sources import build_source
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.models.vit import VisionTransformerConfig
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.paths import named_leaves
from vitjax.training import checkpoints, loop
from vitjax.training.config import Config, InitConfig
from vitjax.training.loop import fit
from vitjax.training.lora import LoraConfig
from vitjax.training.pretrained import HEAD
from vitjax.training.reading import describe
from vitjax.training.start import first_state, load_start, select, tokenizer_to_keep
from vitjax.training.state import evaluated, make_setup
from vitjax.training.step import make_train_step
from vitjax.training.streams import eval_stream, open_data, train_stream
from vitjax.training.tokenizer_file import save_tokenizer

CHANGED = "model: image_size (12, 4) (there (8, 8))"
GOLDEN = Path(__file__).parents[1] / "golden" / "weights"
LORA = LoraConfig(
    rank=2, patterns=(".*/attention/(query|value)/kernel", ".*/feed_forward/.*"), whole=("norm/.*",)
)


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def begin(config: Config):
    return first_state(make_setup(config, one_device()), one_device())


def starting(config: Config, source: Path, *new: str, **fields) -> Config:
    return dataclasses.replace(config, init=InitConfig(str(source), new=new), **fields)


def same_bits(a, b) -> bool:
    a, b = named_leaves(a), named_leaves(b)
    return a.keys() == b.keys() and all(np.asarray(a[k]).tobytes() == np.asarray(b[k]).tobytes() for k in a)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A classifier's run that kept an average and froze a part."""
    config = classifier(ema_decay=0.5, freeze=("positions/.*",))
    return write_run(config, tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """An image-to-text run whose tokens are in an order of their own."""
    return write_run(transcriber(), tmp_path_factory.mktemp("reader"), CharacterTokenizer("9876543210"))


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(loop, "make_mesh", lambda config: one_device())


@pytest.mark.parametrize("lora", [LoraConfig(), LORA])
def test_the_first_state_is_the_checkpoint(source, lora):
    model = vitjax.load(source)
    config = starting(classifier(ema_decay=0.9), source, lora=lora)
    state, start = begin(config)
    assert same_bits(evaluated(config, state), model.params)
    assert same_bits(evaluated(config, dataclasses.replace(state, ema={})), model.params)
    assert int(state.step) == 0
    selection = start.selection
    assert len(selection.taken) == len(jax.tree.leaves(model.params))
    assert selection.new == selection.left == selection.resampled == ()
    assert start.lines() == [f"taken: {len(selection.taken)} arrays from {source} ({start.fingerprint})"]
    assert len(start.fingerprint) == 16


@pytest.mark.parametrize("form", ["hf", "safetensors", "orbax"])
def test_whatever_is_loaded_is_a_start(tmp_path, form):
    folder = GOLDEN / "vit_hf"
    model = vitjax.load(folder)
    if form != "hf":
        folder = tmp_path / "saved"
        vitjax.save(model, folder, format=form)
    init = describe(folder)
    assert isinstance(init.model, VisionTransformerConfig)
    config = Config("x", init.model, init.data("digits"), classifier().train, init=init.start())
    assert config.data.mean == model.preprocess.mean
    state, start = begin(config)
    assert same_bits(evaluated(config, state), model.params)
    assert len(start.fingerprint) == 16


def test_a_new_head(source):
    model = with_model(classifier(), num_classes=7).model
    config = starting(dataclasses.replace(classifier(), model=model), source, HEAD)
    state, start = begin(config)
    kept = named_leaves(vitjax.load(source).params)
    ours = named_leaves(state.params)
    assert ours["head/kernel"].shape == (32, 7) and not ours["head/kernel"].any()
    assert all((ours[name] == leaf).all() for name, leaf in kept.items() if not name.startswith("head/"))
    assert start.lines()[1:] == [
        "new: head/bias, head/kernel",
        "left there: head/bias, head/kernel",
        "model: num_classes 7 (there 10)",
    ]
    anew, start = begin(starting(classifier(), source, ".*"))
    fresh, _ = begin(classifier())
    assert same_bits(anew.params, fresh.params) and start.selection.taken == ()
    assert start.lines()[1].endswith(" and 19 more")


def test_statistics_are_taken(tmp_path):
    write_run(residual(), tmp_path)
    state, _ = begin(starting(with_model(residual(), num_classes=3), tmp_path, HEAD))
    assert same_bits(state.stats, vitjax.load(tmp_path).stats)


@pytest.mark.parametrize(
    ("positions", "made"),
    [
        ({"positions": "relative"}, {"relative_bias/embedding"}),
        (
            {"positions": "learned_relative", "relative_tables": "layers"},
            {"positions/embedding", "blocks/relative_bias/embedding"},
        ),
    ],
)
def test_positions_made_once_for_another_size_give_what_the_model_interpolates(tmp_path, positions, made):
    config = with_model(classifier(), **positions)
    write_run(config, tmp_path)
    images = np.random.default_rng(0).normal(size=(2, 12, 4, 1)).astype(np.float32)
    expected = vitjax.load(tmp_path).features(images)
    larger = with_model(config, image_size=(12, 4))
    state, start = begin(starting(larger, tmp_path))
    assert set(start.selection.resampled) == made
    assert start.lines()[1:] == [f"resampled: {', '.join(start.selection.resampled)}", CHANGED]
    model = dataclasses.replace(vitjax.load(tmp_path), config=larger.model, params=evaluated(larger, state))
    np.testing.assert_allclose(model.features(images).tokens, expected.tokens, rtol=0, atol=5e-6)
    _, start = begin(starting(config, tmp_path))
    assert start.selection.resampled == ()


def test_the_encoder_of_a_reader_becomes_a_classifier(reader):
    init = describe(reader).encoder()
    model = init.classifier(5, transformer={"stochastic_depth": 0.2})
    assert (model.pooling, model.num_classes, model.transformer.stochastic_depth) == ("mean", 5, 0.2)
    config = Config("x", model, init.data("digits"), classifier().train, init=init.start(HEAD))
    assert config.data.image_size == (16, 64) and config.data.channels == 1
    state, start = begin(config)
    ours, theirs = named_leaves(state.params), named_leaves(vitjax.load(reader).params)
    assert all((ours[name] == theirs[f"encoder/{name}"]).all() for name in start.selection.taken)
    assert f"from encoder of {reader} (" in start.lines()[0]


@pytest.fixture(scope="module")
def adapted(source, data_dir, tmp_path_factory):
    """A LoRA run with everything on, interrupted; the checkpoint is gone before it goes on. And one without a break."""
    config = classifier(ema_decay=0.9, accumulate=2, log_every=1)
    config = starting(with_data(config, data_dir), source, HEAD, lora=LORA)
    straight, broken = (tmp_path_factory.mktemp(name) for name in ("straight", "broken"))
    result = train_alone(config, straight)
    with pytest.MonkeyPatch.context() as patch:
        crash_after(6, patch)
        with pytest.raises(ConnectionError):
            train_alone(config, broken)
    return config, straight, broken, result


def test_lora_trains_its_factors_and_what_is_whole(adapted, source):
    config, directory, _, result = adapted
    base = named_leaves(vitjax.load(source).params)
    frozen = named_leaves(result.state.frozen)
    whole = {name for name in base if name.startswith(("head/", "norm/"))}
    assert frozen.keys() == base.keys() - whole
    for name, leaf in frozen.items():
        assert np.asarray(leaf).tobytes() == np.asarray(base[name]).tobytes(), name
    assert set(result.state.params) == set(result.state.ema) == {"head", "norm", "lora"}
    moved = named_leaves(result.state.params["lora"])
    assert {name.rsplit("/", 1)[0] for name in moved} == {
        f"blocks/{name}/kernel"
        for name in ("attention/query", "attention/value", "feed_forward/up", "feed_forward/down")
    }
    assert all(np.asarray(leaf).any() for name, leaf in moved.items() if name.endswith("/b"))
    state = {
        jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(result.state.opt_state)
    }
    assert not any("kernel" in name and "lora" not in name and "head" not in name for name in state)


def test_what_is_loaded_is_merged(adapted):
    config, directory, _, result = adapted
    model = vitjax.load(directory)
    merged = named_leaves(evaluated(config, result.state))
    assert named_leaves(model.params).keys() == merged.keys()
    for name, leaf in named_leaves(model.params).items():
        np.testing.assert_allclose(leaf, merged[name], rtol=0, atol=1e-6, err_msg=name)
    query = "blocks/attention/query/kernel"
    assert np.abs(merged[query] - named_leaves(result.state.frozen)[query]).max() > 1e-5


def test_a_resume_needs_no_checkpoint_but_its_own(adapted, data_dir, tmp_path, one, monkeypatch):
    config, straight, broken, result = adapted
    for name in ("describe", "read"):
        monkeypatch.setattr(f"vitjax.training.start.{name}", None)
    resumed = fit(config, broken, resume=True)
    assert_same_state(resumed.state, result.state)
    assert checkpoints.steps(broken / "checkpoints") == [4, 8]
    assert load_start(straight) == load_start(broken)
    assert load_start(broken).pretrained == describe(config.init.checkpoint)
    other = starting(config, tmp_path, HEAD)
    with pytest.raises(
        ValueError, match=f"started from {config.init.checkpoint}, not from {tmp_path}: resume"
    ):
        fit(other, broken, resume=True)


def steps(config: Config, mesh):
    """Losses of two steps on noise, and the merged parameters after them."""
    setup = make_setup(config, mesh)
    state, _ = first_state(setup, mesh)
    update = make_train_step(setup, mesh)
    losses = []
    for seed in range(2):
        state, metrics = update(state, noise(config, seed))
        losses.append(float(metrics["loss"]))
    return losses, named_leaves(evaluated(config, state))


def test_any_mesh_gives_the_same_run(adapted):
    config = adapted[0]
    mesh = make_mesh(MeshConfig.parse("data=2,fsdp=2,tensor=2"))
    (alone, expected), (losses, found) = steps(config, one_device()), steps(config, mesh)
    np.testing.assert_allclose(losses, alone, rtol=0, atol=1e-5)
    for name, leaf in expected.items():
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=1e-5, err_msg=name)
    kernel = found["blocks/feed_forward/up/kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_a_reader_goes_on_with_its_tokenizer(reader, data_dir, tmp_path):
    config = starting(with_data(transcriber(), data_dir), reader)
    tokenizer = tokenizer_to_keep(config, None)
    assert tokenizer == CharacterTokenizer("9876543210")
    data = open_data(config, tokenizer)
    held_out = build_source(config.data, "test")
    with eval_stream(config, one_device(), tokenizer=tokenizer) as batches:
        assert tokenizer.decode(np.asarray(next(batches)["tokens"][0])) == held_out[0]["text"]
    save_tokenizer(tmp_path, CharacterTokenizer("012345678x"))
    assert tokenizer_to_keep(config, tmp_path) == CharacterTokenizer("012345678x")
    data = dataclasses.replace(data, tokenizer=tokenizer_to_keep(config, tmp_path))
    with (
        pytest.raises(ValueError, match="has the character '9', which is not in the tokenizer's alphabet"),
        train_stream(config, one_device(), 0, data) as batches,
    ):
        next(batches)
    with pytest.raises(
        ValueError, match="trocr_printed has no tokenizer, without which its tokens mean nothing"
    ):
        tokenizer_to_keep(starting(config, GOLDEN / "trocr_printed"), None)


def chosen(config: Config, source: Path):
    return select(config, describe(source).only(config.init.part))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda c: with_model(c, num_classes=7),
            r"head/bias is \[10\], this run's model has \[7\]: .* --init.new head/bias",
        ),
        (
            lambda c: with_model(c, class_token=True),
            "has no class_token, which this run's model has: .* start it anew",
        ),
        (
            lambda c: with_model(c, positions="none"),
            "has positions/embedding, which this run's model has not",
        ),
        (lambda c: starting(c, "", "hed/.*"), "init.new: no parameter matches 'hed/.*'; paths look like"),
        (
            lambda c: with_train(starting(c, "", HEAD), freeze=("head/.*",)),
            "train.freeze: head/bias starts at random",
        ),
        (
            lambda c: dataclasses.replace(c, init=InitConfig("x", part="encoder")),
            "init.part is 'encoder': .* no such",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(source, make, line):
    with pytest.raises(ValueError, match=line) as refusal:
        chosen(make(classifier()), source)
    assert "\n" not in str(refusal.value)


def test_options_that_contradict():
    with pytest.raises(ValueError, match="lora.rank adapts a checkpoint, and this run starts from none"):
        dataclasses.replace(classifier(), lora=LORA)
    with pytest.raises(ValueError, match="train.freeze has nothing to say under LoRA"):
        starting(classifier(freeze=("head/.*",)), "x", lora=LORA)
    both = starting(classifier(), "x", "blocks/.*", lora=LORA)
    with pytest.raises(ValueError, match="lora.patterns: blocks/.* is trained whole already"):
        make_setup(both, one_device())
    nothing = starting(classifier(), "x", lora=dataclasses.replace(LORA, whole=("nrm/.*",)))
    with pytest.raises(ValueError, match="lora.whole: no parameter matches 'nrm/.*'"):
        make_setup(nothing, one_device())
