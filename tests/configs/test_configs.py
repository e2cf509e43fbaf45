"""Every recipe loads, says what it costs, builds, and takes two real training steps on generated batches."""

import ast
import dataclasses
import math
import re
from pathlib import Path

import jax
import pytest

from tests.training.runs import train
from vitjax.data.datasets import OWN, own_builder
from vitjax.data.preprocess import Preprocess
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.nn import functional
from vitjax.training.config import Config, from_json, to_json
from vitjax.training.optimizer import make_optimizer
from vitjax.training.pretrained import Pretrained
from vitjax.training.recipe import load_config
from vitjax.training.streams import check_texts
from vitjax.training.tasks import is_classifier

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.name for path in CONFIGS.glob("*.py"))


def shapes(config: Config):
    return functional.abstract(lambda rngs: config.model.build(rngs=rngs))[1]


@pytest.fixture(params=FILES)
def file(request) -> Path:
    return CONFIGS / request.param


@pytest.fixture
def config(file) -> Config:
    """A config that starts from a checkpoint is given the one that its docstring names: a run of another config."""
    command = re.search(r"--init runs/(\w+)", file.read_text())
    if command is None:
        return load_config(file)
    run = load_config(CONFIGS / f"{command[1]}.py")
    where = f"runs/{run.name}"
    init = Pretrained(where, where, run.model, Preprocess.of(run.data), run.generation)
    return load_config(file, init)


def test_they_are_there():
    assert {*FILES} >= {
        *("digits_vit.py", "digits_resnet.py", "digit_strings.py", "digit_strings_lstm.py"),
        *("text_lines.py", "reverse_words.py", "imagenet_vit_s16.py", "imagenet_vit_b16.py"),
        *("finetune.py", "finetune_reader.py"),
    }


def test_json_and_back(file, config):
    assert config.name == file.stem
    assert from_json(to_json(config), where="") == config


def test_the_docstring_says_command_cost_and_score(file, config):
    text = ast.get_docstring(ast.parse(file.read_text()))
    command = re.search(r"^Command: `python train.py --config configs/(\w+\.py)", text, re.MULTILINE)
    assert command and command[1] == file.name
    assert re.search(r"^Cost: .*\d", text, re.MULTILINE)
    assert re.search(r"^Score: .*\d", text, re.MULTILINE)
    assert f"{config.train.steps:,} steps of {config.train.batch_size:,}" in " ".join(text.split())
    if stated := re.search(r"([\d,]+) parameters", text):
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes(config)))
        assert int(stated[1].replace(",", "")) == parameters


def test_it_fits_its_data(config, tmp_path):
    if config.data.name not in OWN:
        assert config.model.num_classes == 1000
        return
    info = own_builder(config.data.name)(data_dir=str(tmp_path)).info
    if is_classifier(config):
        assert config.model.num_classes == info.features["label"].num_classes
        return
    alphabet = info.metadata["alphabet"]
    if config.init.checkpoint:
        theirs = load_config(CONFIGS / f"{Path(config.init.checkpoint).name}.py").data.name
        learned = own_builder(theirs)(data_dir=str(tmp_path)).info.metadata["alphabet"]
        assert set(alphabet) <= set(learned)
        alphabet = learned
    check_texts(config, CharacterTokenizer(alphabet))


def test_the_schedule_warms_up_and_ends_low(config):
    _, schedule = make_optimizer(config.optimizer, shapes(config), config.train.steps)
    peak = config.optimizer.learning_rate
    assert float(schedule(config.optimizer.warmup_steps)) == pytest.approx(peak, rel=1e-3)
    assert float(schedule(0)) < 0.1 * peak
    assert float(schedule(config.train.steps - 1)) < 0.5 * peak


def test_two_generated_batches(config):
    """Full images through the step that training takes, in batches, and at a depth, that one core can carry."""
    rows = 16 if config.data.name in OWN else 2
    if config.data.name not in OWN:
        blocks = dataclasses.replace(config.model.transformer, depth=2)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, transformer=blocks))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=rows))
    state, metrics = train(config, steps=2)
    if not is_classifier(config):
        # a head that starts at random: logits of variance v add v / 2
        expected, around = math.log(config.model.vocabulary_size) + 0.5, 0.5
    elif config.train.loss == "sigmoid":
        expected, around = math.log(2), 1e-3  # for each class; heads start at zero
    else:
        expected, around = math.log(config.model.num_classes), 1e-3
    assert metrics[0]["loss"] == pytest.approx(expected, abs=around)
    for record in metrics:
        assert record["bad_labels"] == 0
        assert math.isfinite(record["loss"]) and math.isfinite(record["gradient_norm"])
    assert metrics[0]["gradient_norm"] > 0
    assert int(state.step) == 2
