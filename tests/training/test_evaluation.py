import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.parallel.together import run_together
from tests.prepared import with_data
from tests.training.runs import classifier, residual, train, transcriber, translator
from tests.training.test_loop import with_optimizer, with_train
from vitjax.data.pipeline import eval_batches
from vitjax.data.sources import tokenizer_for
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import generate
from vitjax.nn.functional import merge
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training.config import to_json
from vitjax.training.evaluation import Evaluation, evaluate, make_generation
from vitjax.training.metrics import share
from vitjax.training.state import evaluated, init_state, make_setup
from vitjax.training.streams import eval_set, eval_stream
from vitjax.training.tasks import source_of

WORDS = GenerationConfig(max_length=12, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def trained(config):
    """Definition, parameters to evaluate, statistics: after three steps on noise."""
    state, _ = train(config)
    return make_setup(config, one_device()).definition, evaluated(config, state), state.stats


def score(config, definition, params, stats, **options) -> Evaluation:
    mesh = options.pop("mesh", one_device())
    with eval_stream(config, mesh) as batches:
        return evaluate(config, definition, params, stats, batches, mesh=mesh, **options)


def by_hand(config, definition, params, stats):
    """The whole split as one batch without fillers, and the model's answer to it."""
    count = {"digits": 360}.get(config.data.name, 40)
    (batch,) = map(jax.device_put, eval_batches(config.data, batch_size=count))
    model = merge(definition, params, stats)
    source, mask = source_of(config, batch)
    if "label" in batch:
        logits, labels, weights = model(source, train=False), batch["label"], 1.0
    else:
        tokens = batch["tokens"]
        logits, labels = model(source, tokens[:, :-1], source_mask=mask, train=False), tokens[:, 1:]
        weights = labels != 0
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), labels[..., None], -1)[..., 0]
    return batch, logits, float(-(picked * weights).sum() / (weights * np.ones_like(picked)).sum())


@pytest.mark.parametrize(
    "make",
    [
        lambda: classifier(ema_decay=0.9, freeze=("blocks/.*",)),
        lambda: classifier(loss="softmax", label_smoothing=0.3),  # smoothing is for training
        lambda: with_optimizer(residual(), learning_rate=0.03),
    ],
)
def test_scores_of_classes(make, data_dir):
    config = with_data(with_train(make(), batch_size=112), data_dir)  # 360 = 3 x 112 + 24: fillers
    model = trained(config)
    batch, logits, loss = by_hand(config, *model)
    evaluation = score(config, *model)
    assert evaluation.loss == pytest.approx(loss, abs=1e-5)
    assert evaluation.predictions == np.argmax(logits, -1).tolist()
    assert evaluation.references == batch["label"].tolist()
    hits = int((np.argmax(logits, -1) == batch["label"]).sum())
    assert evaluation.accuracy == share(hits, 360)
    assert evaluation.scalars() == {"loss": evaluation.loss, "accuracy": hits / 360}
    if model[2]:
        fresh = init_state(make_setup(config, one_device())).stats
        assert score(config, model[0], model[1], fresh).loss != pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("num_beams", [None, 3])
def test_scores_of_sequences(data_dir, num_beams):
    config = with_data(transcriber(), data_dir)  # 40 = 2 x 16 + 8
    model = trained(config)
    tokenizer = tokenizer_for(config.data)
    batch, _, loss = by_hand(config, *model)
    generation = make_generation(config.generation, num_beams)
    assert generation.num_beams == (num_beams or 1)
    evaluation = score(config, *model, tokenizer=tokenizer, generation=generation if num_beams else None)
    out = generate(model[0], model[1], source_of(config, batch)[0], config=generation)
    assert evaluation.predictions == tokenizer.decode_batch(np.asarray(out.tokens)[:, 0])
    assert evaluation.references == tokenizer.decode_batch(np.asarray(batch["tokens"]))
    assert evaluation.loss == pytest.approx(loss, abs=1e-5)
    hits = sum(a == b for a, b in zip(evaluation.predictions, evaluation.references, strict=True))
    assert evaluation.exact_match == share(hits, 40)
    assert evaluation.character_error_rate > 0
    assert set(evaluation.scalars()) == {"loss", "exact_match", "character_error_rate"}


def test_scores_of_text_do_not_see_the_padding(data_dir):
    config = with_data(dataclasses.replace(translator(), generation=WORDS), data_dir)
    model = trained(config)
    _, _, loss = by_hand(config, *model)
    evaluation = score(config, *model, tokenizer=tokenizer_for(config.data))
    assert evaluation.loss == pytest.approx(loss, abs=1e-5)
    assert len(evaluation.predictions) == 40
    assert all(evaluation.references)


def test_sequences_need_a_tokenizer(data_dir):
    config = with_data(transcriber(), data_dir)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        score(config, make_setup(config, one_device()).definition, {}, {})


@pytest.mark.parametrize("make", [lambda: with_train(residual(), batch_size=112), transcriber])
def test_any_mesh_gives_the_same_scores(make, data_dir):
    config = with_data(make(), data_dir)
    definition, params, stats = jax.tree.map(np.asarray, trained(config))
    tokenizer = tokenizer_for(config.data) if config.data.name != "digits" else None
    alone = score(config, definition, params, stats, tokenizer=tokenizer)
    mesh = make_mesh(MeshConfig.parse("data=2,fsdp=2,tensor=2"))
    spread = score(config, definition, params, stats, tokenizer=tokenizer, mesh=mesh)
    assert spread.predictions == alone.predictions
    assert spread.references == alone.references
    assert spread.loss == pytest.approx(alone.loss, abs=1e-5)


def test_the_split_is_read_again_for_each_evaluation(data_dir):
    config = with_data(classifier(), data_dir)
    mesh = one_device()
    held_out = eval_set(config, mesh)
    passes = []
    for _ in range(2):
        with eval_stream(config, mesh, held_out) as stream:
            passes.append([np.asarray(batch["label"]) for batch in stream])
    assert len(passes[0]) == len(held_out) == 23
    np.testing.assert_array_equal(passes[0], passes[1])


TOGETHER = """
import json, sys
from pathlib import Path
import vitjax
from vitjax.parallel import processes
processes.initialize(processes.ProcessConfig(heartbeat_seconds=10))
from vitjax.data.sources import tokenizer_for
from vitjax.parallel.mesh import make_mesh
from vitjax.training.config import from_json
from vitjax.training.loop import evaluate_state
from vitjax.training.state import init_state, make_setup

directory = Path(sys.argv[1])
config = from_json((directory / "config.json").read_text(), where="")
mesh = make_mesh(config.mesh)
setup = make_setup(config, mesh)
evaluation = evaluate_state(setup, init_state(setup), mesh, tokenizer_for(config.data))
processes.barrier("the end")
record = [evaluation.loss, evaluation.predictions, evaluation.references]
(directory / f"{processes.process_index()}.json").write_text(json.dumps(record))
print("written")
"""


def test_two_processes_give_the_same_scores(data_dir, tmp_path):
    config = with_data(transcriber(), data_dir)
    state = init_state(make_setup(config, one_device()))
    definition = make_setup(config, one_device()).definition
    alone = score(config, definition, evaluated(config, state), {}, tokenizer=tokenizer_for(config.data))
    (tmp_path / "config.json").write_text(
        to_json(dataclasses.replace(config, mesh=MeshConfig.parse("data=4,tensor=2")))
    )
    run_together(TOGETHER, 2, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    assert first == second
    assert first[0] == pytest.approx(alone.loss, abs=1e-5)
    assert first[1:] == [alone.predictions, alone.references]
