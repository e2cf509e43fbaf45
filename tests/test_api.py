import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from tests.decoding.test_generate import compilations
from tests.prepared import small_datasets, train_alone, with_data
from tests.training.runs import OPTIMIZER, TRAIN, classifier, residual, transcriber, translator
from vitjax import model as model_module
from vitjax.data.pipeline import eval_batches
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import generate
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.nn.functional import merge
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training.config import Config
from vitjax.training.state import evaluated
from vitjax.training.tasks import source_of


def reader() -> Config:
    """Show, Attend and Tell."""
    encoder = ResNetConfig((1, 1), (8, 16), stem="small", channels=1)
    model = ShowAttendTellConfig(encoder, vocabulary_size=13, width=16, embedding_width=8, attention_width=8)
    base = transcriber()
    return Config("reader", model, base.data, TRAIN, OPTIMIZER, generation=base.generation)


def words() -> Config:
    generation = GenerationConfig(max_length=12, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    return dataclasses.replace(translator(), generation=generation)


FAMILIES = {
    "classifier": lambda: classifier(ema_decay=0.5, freeze=("blocks/.*",)),
    "residual": residual,
    "transcriber": transcriber,
    "reader": reader,
    "words": words,
}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run, and what it ended with."""

    config: Config
    directory: Path
    definition: object
    params: dict
    stats: dict
    batch: dict

    @property
    def source(self):
        return source_of(self.config, self.batch)

    @property
    def model(self):
        return merge(self.definition, self.params, self.stats)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    with small_datasets(tmp_path_factory.mktemp("datasets")) as folder:
        yield folder


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """Each family trained for four steps, when first asked for."""
    made = {}

    def run(name: str) -> Trained:
        if name not in made:
            config = FAMILIES[name]()
            config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=4))
            config = with_data(config, data_dir, eval_split="test[:8]")
            directory = tmp_path_factory.mktemp(name)
            result = train_alone(config, directory)
            (batch,) = map(jax.device_put, eval_batches(config.data, batch_size=8))
            state = (evaluated(config, result.state), result.state.stats)
            made[name] = Trained(config, directory, result.setup.definition, *state, batch)
        return made[name]

    return run


def close(a, b) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["classifier", "residual"])
def test_classes_as_in_training(runs, name):
    run = runs(name)
    model = vitjax.load(run.directory)
    assert model.config == run.config.model
    assert model.tokenizer is None
    expected = run.model(run.source[0], train=False)
    assert np.ptp(expected, axis=0).max() > 1e-4  # images do matter
    close(model.logits(np.asarray(run.batch["image"])), expected)  # uint8
    close(model.logits(run.source[0]), expected)  # normalised float, on the device
    close(model.logits(np.asarray(run.source[0])), expected)
    features = model.features(np.asarray(run.batch["image"]))
    inside = run.model.features(run.source[0], train=False)
    close(features.tokens, inside.tokens)
    close(features.pooled, inside.pooled)


def test_the_average_is_what_is_loaded(runs):
    run = runs("classifier")
    model = vitjax.load(run.directory)
    for a, b in zip(jax.tree.leaves(model.params), jax.tree.leaves(run.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_uint8_of_another_size_is_brought_to_the_models(runs):
    run = runs("classifier")
    model = vitjax.load(str(run.directory))
    small = np.asarray(run.batch["image"])
    large = np.repeat(np.repeat(np.repeat(small, 3, axis=1), 3, axis=2), 3, axis=3)  # 24 x 24, RGB
    resized = np.stack([model.preprocess(image) for image in large])
    assert resized.shape == small.shape
    close(model.logits(large), model.logits(resized))


def test_images_of_any_sizes_are_brought_to_the_models_once(runs):
    model = vitjax.load(runs("classifier").directory)
    cut = dataclasses.replace(model.preprocess, resize="crop", resize_size=(10, 10))
    model = dataclasses.replace(model, preprocess=cut)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in ((8, 8, 1), (9, 14, 3), (1, 5, 1))]
    sized = np.stack([cut(image) for image in images])
    assert not np.array_equal(sized[0], images[0])  # also what has the model's size is resized and cut
    close(model.logits(images), model.logits(cut.normalize(sized)))


def test_images_that_keep_their_aspect(runs):
    def keeps_aspect(name):
        model = vitjax.load(runs(name).directory)
        patches = dataclasses.replace(model.preprocess, resize="patches", patch_size=2, max_patches=16)
        return dataclasses.replace(model, preprocess=patches)

    draw = np.random.default_rng(0)
    wide, tall = (draw.integers(0, 256, shape, np.uint8) for shape in ((9, 25, 1), (25, 9, 1)))
    transformer = keeps_aspect("classifier")
    alone = [transformer.logits([image])[0] for image in (wide, tall)]
    close(transformer.logits([wide, tall]), np.stack(alone))  # of two sizes: packed
    model = keeps_aspect("residual")
    assert model.logits([wide, wide]).shape == (2, 10)
    with pytest.raises(
        ValueError, match=r"come out in 2 sizes, \(4, 12\), \(12, 4\): give it images of one size"
    ):
        model.logits([wide, tall])


@pytest.mark.parametrize("name", ["transcriber", "reader", "words"])
def test_sequences_as_in_training(runs, name):
    run = runs(name)
    model = vitjax.load(run.directory)
    source, mask = run.source
    tokens = run.batch["tokens"][:, :-1]
    expected = run.model(source, tokens, source_mask=mask, train=False)
    given = run.batch.get("image", source)
    close(model.logits(np.asarray(given), np.asarray(tokens), source_mask=mask), expected)


@pytest.mark.parametrize("name", ["transcriber", "reader", "words"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7}])
def test_generate_is_the_decoders(runs, name, options):
    run = runs(name)
    model = vitjax.load(run.directory)
    source, mask = run.source
    config = dataclasses.replace(run.config.generation, **options)
    expected = generate(run.definition, run.params, source, source_mask=mask, stats=run.stats, config=config)
    given = np.asarray(run.batch.get("image", source))
    out = model.generate(given, source_mask=mask, **options)
    np.testing.assert_array_equal(out.tokens, expected.tokens)
    np.testing.assert_array_equal(out.lengths, expected.lengths)
    close(out.scores, expected.scores)
    close(out.token_log_probs, expected.token_log_probs)
    assert out.attention is None
    texts = out.text()
    count = options.get("num_return_sequences", 1)
    assert [len(row) for row in texts] == [count] * 8
    assert texts[3][-1] == model.tokenizer.decode(np.asarray(out.tokens)[3, -1])


@pytest.mark.parametrize("name", ["transcriber", "reader", "words"])
def test_attention(runs, name):
    run = runs(name)
    model = vitjax.load(run.directory)
    source, mask = run.source
    given = np.asarray(run.batch.get("image", source))
    out = model.generate(given, source_mask=mask, num_beams=2, num_return_sequences=2, return_attention=True)
    rows, length = 8, out.tokens.shape[-1]
    places = {"transcriber": 8, "reader": 8 * 32, "words": 32}[name]
    assert out.attention.shape == (rows, 2, length - 1, places)
    close(out.attention.sum(axis=-1), np.ones((rows, 2, length - 1)))
    assert np.asarray(out.attention).min() >= 0
    if mask is not None:
        padding = np.broadcast_to(~np.asarray(mask)[:, None, None], out.attention.shape)
        assert np.asarray(out.attention)[padding].max() < 1e-9


@pytest.mark.parametrize("name", ["transcriber", "reader", "words"])
def test_what_people_ask_of_a_result(runs, name):
    run = runs(name)
    model = vitjax.load(run.directory)
    source, mask = run.source
    given, options = np.asarray(run.batch.get("image", source)), {"num_beams": 2, "num_return_sequences": 2}
    out = model.generate(given, source_mask=mask, return_attention=True, **options)
    tokens, lengths = np.asarray(out.tokens), np.asarray(out.lengths)
    for row in range(8):
        for rank in range(2):
            sequence = tokens[row, rank, : lengths[row, rank]]
            assert out.finish_reason[row][rank] == ("stop" if sequence[-1] == 2 else "length")
            pieces = out.pieces()[row][rank]
            assert len(pieces) == len(sequence) - 1 and "".join(pieces) == out.text()[row][rank]
    assert lengths.max() - 1 <= out.steps <= tokens.shape[-1] - 1
    assert out.encode_seconds > 0 and out.decode_seconds >= 0
    if name == "words":
        with pytest.raises(ValueError, match="the source is text, it has no places in an image"):
            out.attention_maps()
        return
    grid = {"transcriber": (1, 8), "reader": (8, 32)}[name]
    np.testing.assert_array_equal(out.attention_maps(), out.attention.reshape(8, 2, -1, *grid))
    with pytest.raises(
        ValueError, match="there is no attention: generate\\(..., return_attention=True\\) keeps it"
    ):
        model.generate(given, **options).attention_maps()


def test_a_smaller_last_batch_compiles_nothing(runs):
    run = runs("transcriber")
    model = vitjax.load(run.directory)
    images = np.asarray(run.batch["image"])
    whole = model.generate(images, return_attention=True)
    with compilations() as names:
        part = model.generate(images[:3], return_attention=True, batch_size=8)
    assert not names
    np.testing.assert_array_equal(part.tokens, whole.tokens[:3])
    np.testing.assert_array_equal(part.attention, whole.attention[:3])


def test_fingerprint(runs):
    model, other = vitjax.load(runs("transcriber").directory), vitjax.load(runs("reader").directory)
    assert model.fingerprint() == vitjax.load(runs("transcriber").directory).fingerprint()
    params = jax.tree.map(np.array, model.params)
    changed = dataclasses.replace(model, params=params)
    assert changed.fingerprint() == model.fingerprint()
    params["decoder"]["blocks"]["feed_forward"]["up"]["kernel"][-1, -1, -1] += 1e-3
    resized = dataclasses.replace(model, preprocess=dataclasses.replace(model.preprocess, resize="fit"))
    assert len({m.fingerprint() for m in (model, other, changed, resized)}) == 4


def test_a_prompt_is_gone_on_from(runs):
    run = runs("transcriber")
    model = vitjax.load(run.directory)
    images = np.asarray(run.batch["image"])
    prompt = np.tile(np.array([[0, 1, 7]], np.int32), (8, 1))
    out = model.generate(images, prompt=prompt, prompt_mask=prompt > 0, return_attention=True)
    np.testing.assert_array_equal(np.asarray(out.tokens)[:, 0, :3], prompt)
    shorter = model.generate(images, prompt=prompt[:, 1:], max_length=7, return_attention=True)
    np.testing.assert_array_equal(np.asarray(out.tokens)[:, 0, 1:], np.asarray(shorter.tokens)[:, 0])
    close(out.attention[:, 0, 1:], shorter.attention[:, 0])


@pytest.mark.parametrize("name", ["transcriber", "reader"])
def test_streamed_is_generated(runs, name):
    model = vitjax.load(runs(name).directory)
    source = np.asarray(runs(name).batch["image"])
    whole = model.generate(source, max_length=8).text()
    pieces = list(model.stream(source, max_length=8, chunk_size=3))
    assert [
        ["".join(texts) for texts in zip(*row, strict=True)] for row in zip(*pieces, strict=True)
    ] == whole
    with pytest.raises(ValueError, match="beam search may change its tokens"):
        model.stream(source, num_beams=2)


def test_a_row_draws_from_its_own_key(runs):
    model = vitjax.load(runs("transcriber").directory)
    source = np.asarray(runs("transcriber").batch["image"])[:3]
    keys = jax.random.split(jax.random.key(0), 3)
    options = {"do_sample": True, "num_return_sequences": 2, "max_length": 8}
    out = model.generate(source, key=keys, **options)
    turned = model.generate(source[::-1], key=keys[::-1], **options)
    np.testing.assert_array_equal(out.tokens, turned.tokens[::-1])
    assert (out.tokens[:, 0] != out.tokens[:, 1]).any()


@pytest.mark.parametrize("name", ["transcriber", "reader"])
def test_score_is_what_generate_says(runs, name):
    model = vitjax.load(runs(name).directory)
    source = np.asarray(runs(name).batch["image"])
    out = model.generate(source, max_length=8, num_beams=2, length_penalty=0.0)
    texts = ["12", "7"] + [
        text[0] for text, ended in zip(out.text(), out.finished[:, 0], strict=True) if ended
    ]
    scores = model.score(source, texts)
    assert scores.shape == (len(source), len(texts)) and (scores < 0).all()
    written = [row for row in range(len(source)) if out.finished[row, 0]]
    for column, row in enumerate(written, start=2):
        np.testing.assert_allclose(scores[row, column], out.scores[row, 0], atol=1e-4)


def test_on_a_mesh(runs):
    run = runs("transcriber")
    alone = vitjax.load(run.directory)
    mesh = make_mesh(MeshConfig.parse("fsdp=2,beam=2,tensor=2"))
    spread = vitjax.load(run.directory, mesh=mesh)
    kernel = spread.params["decoder"]["blocks"]["feed_forward"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    images = np.asarray(run.batch["image"])
    expected, out = (
        model.generate(images[:7], num_beams=2, return_attention=True) for model in (alone, spread)
    )
    np.testing.assert_array_equal(out.tokens, expected.tokens)
    np.testing.assert_allclose(out.attention, expected.attention, atol=1e-5)


def test_a_second_call_compiles_nothing(runs):
    run = runs("classifier")
    model = vitjax.load(run.directory)
    images = np.asarray(run.batch["image"])
    model.logits(images)
    before = model_module._logits._cache_size()
    model.logits(images)
    vitjax.load(run.directory).logits(images)  # nor does another copy
    assert model_module._logits._cache_size() == before
    assert model.definition is model.definition


@pytest.mark.parametrize(
    ("name", "call", "line"),
    [
        (
            "classifier",
            lambda m, x: m.logits(x[0]),
            r"takes images \[B, H, W, channels\], .* not uint8\[8, 8, 1\]",
        ),
        ("classifier", lambda m, x: m.logits(x.astype(np.int32)), r"uint8 or normalised float, not int32\["),
        ("classifier", lambda m, x: m.logits(np.zeros((1, 8, 8, 3))), "images of 1 channels, not float64"),
        ("classifier", lambda m, x: m.logits([[1, 2]]), r"takes images .* not int64\[1, 2\]"),
        ("classifier", lambda m, x: m.logits(np.zeros((1, 9, 8, 1), np.float32)), "does not divide it"),
        ("classifier", lambda m, x: m.logits(x, x[:, :2, 0, 0]), "names classes: logits takes images alone"),
        ("classifier", lambda m, x: m.generate(x), "names classes and writes no sequences: use .logits"),
        ("transcriber", lambda m, x: m.logits(x), r"needs decoder_tokens \[B, T\]"),
        ("transcriber", lambda m, x: m.features(x), "features are those of an image classifier"),
        (
            "transcriber",
            lambda m, x: m.generate(x, num_beam=2),
            "no option 'num_beam': there are .*num_beams",
        ),
        ("transcriber", lambda m, x: m.generate(x, num_beams=0), "num_beams=0: expected 1 or more"),
        (
            "words",
            lambda m, x: m.generate(np.zeros((1, 8, 8, 1), np.uint8)),
            r"takes int tokens \[B, S\], not uint8",
        ),
        (
            "words",
            lambda m, x: m.generate(jnp.zeros((2, 3))),
            r"takes int tokens \[B, S\], not float32\[2, 3\]",
        ),
    ],
)
def test_errors_say_what_to_do(runs, name, call, line):
    run = runs(name)
    model = vitjax.load(run.directory)
    with pytest.raises(ValueError, match=line) as error:
        call(model, np.asarray(run.batch.get("image", run.source[0])))
    assert "\n" not in str(error.value)


def test_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="holds no weights: expected model.safetensors"):
        vitjax.load(tmp_path)
