import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.parallel.together import ROOT, run_together
from tests.prepared import train_alone, with_data, write_recipe
from tests.training.runs import TRANSFORMER, classifier, residual, transcriber, translator
from vitjax.data.config import Augment
from vitjax.data.sources import build_source
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training import checkpoints, loop, streams
from vitjax.training.config import Config, from_json, to_json
from vitjax.training.loop import fit, refuse_bad

NOISY = dataclasses.replace(TRANSFORMER, dropout=0.1)


def with_optimizer(config: Config, **optimizer) -> Config:
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **optimizer))


def with_train(config: Config, **train) -> Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def with_model(config: Config, **model) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **model))


def with_generation(config, **options):
    return dataclasses.replace(config, generation=dataclasses.replace(config.generation, **options))


def with_vocabulary(config: Config, part: str, size: int) -> Config:
    changed = dataclasses.replace(getattr(config.model, part), vocabulary_size=size)
    return with_model(config, **{part: changed})


def records(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def losses(directory: Path) -> dict[tuple[str, int], float]:
    lines = records(directory)  # read once: a run may be writing
    found = {(record["phase"], record["step"]): record["loss"] for record in lines}
    assert len(found) == len(lines), "a step is there twice"
    return found


def assert_same_state(a, b) -> None:
    """Bit for bit, random key included."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


@pytest.fixture
def one_device(monkeypatch):
    """`fit` takes all devices; one compiles and runs faster."""
    monkeypatch.setattr(loop, "make_mesh", lambda config: make_mesh(MeshConfig(), jax.devices()[:1]))


def crash_after(step: int, monkeypatch) -> None:
    """The next run dies in the update after `step`."""
    original = loop.make_train_step

    def make(setup, mesh):
        update = original(setup, mesh)

        def dying(state, batch):
            if int(state.step) == step:
                raise ConnectionError("the plug was pulled")
            return update(state, batch)

        return dying

    monkeypatch.setattr(loop, "make_train_step", make)


@pytest.fixture(scope="module")
def config(data_dir):
    """Eight steps that draw augmentation and dropout, average, log each second step and save each fourth."""
    config = classifier(NOISY, ema_decay=0.9, log_every=2)
    return with_data(config, data_dir, augment=Augment(shift=1.0))


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """The run without an interruption: (directory, result)."""
    directory = tmp_path_factory.mktemp("straight")
    return directory, train_alone(config, directory)


def test_what_a_run_leaves(config, straight):
    directory, result = straight
    assert int(result.state.step) == 8
    assert result.stopped is None
    assert result.evaluation.accuracy.total == 360
    assert result.train_seconds > 0
    assert from_json((directory / "config.json").read_text(), where="") == config
    assert checkpoints.steps(directory / "checkpoints") == [4, 8]
    assert list(losses(directory)) == [("train", step) for step in (2, 4, 6, 8)] + [("eval", 8)]
    assert any(directory.glob("events.*"))
    assert not (directory / "tokenizer.json").exists()


def test_resume_is_bit_equal(config, straight, tmp_path, one_device, monkeypatch):
    with monkeypatch.context() as patch:
        crash_after(7, patch)
        with pytest.raises(ConnectionError, match="plug"):
            fit(config, tmp_path)
    assert checkpoints.steps(tmp_path / "checkpoints") == [4]
    assert ("train", 6) in losses(tmp_path)  # past the checkpoint: must not stay twice
    result = fit(config, tmp_path, resume=True)
    assert_same_state(result.state, straight[1].state)
    assert losses(tmp_path) == losses(straight[0])
    assert result.evaluation == straight[1].evaluation


def test_resume_of_nothing_starts(config, straight, tmp_path, one_device):
    result = fit(config, tmp_path, resume=True)
    assert_same_state(result.state, straight[1].state)


def test_resume_of_a_finished_run_changes_nothing(config, tmp_path, one_device):
    short = with_train(config, steps=2)
    first = fit(short, tmp_path)
    before = losses(tmp_path)
    again = fit(short, tmp_path, resume=True)
    assert again.evaluation is None
    assert losses(tmp_path) == before
    assert_same_state(again.state, first.state)


def test_a_run_is_never_overwritten(config, straight):
    directory, _ = straight
    before = (directory / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match="already holds a run at step 8: continue it with --resume"):
        fit(config, directory)
    assert (directory / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda c: with_train(c, batch_size=8), "batch_size=16, now it is 8"),
        (lambda c: with_train(c, seed=1), "seed=0, now it is 1"),
        (lambda c: with_data(c, c.data.data_dir, train_split="train[:100]"), "examples=1437, now it is 100"),
        (lambda c: with_data(c, c.data.data_dir, augment=Augment()), "augment={.*'shift': 1.0"),
    ],
)
def test_other_data_is_no_resume(config, straight, one_device, change, field):
    directory, _ = straight
    with pytest.raises(ValueError, match=f"the checkpoint was trained with data {field}"):
        fit(change(config), directory, resume=True)
    assert checkpoints.steps(directory / "checkpoints") == [4, 8]
    assert from_json((directory / "config.json").read_text(), where="") == config


def test_another_model_is_no_resume(config, straight, one_device):
    wider = with_model(config, transformer=dataclasses.replace(NOISY, feed_forward_width=128))
    with pytest.raises(
        ValueError, match=r"feed_forward/.* is float32\[.*64.*\] there, expected float32\[.*128"
    ):
        fit(wider, straight[0], resume=True)


def test_damaged_newest_checkpoint(config, straight, tmp_path, one_device, caplog):
    result = fit(config, tmp_path)
    newest = tmp_path / "checkpoints" / "step_00000008"
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    with caplog.at_level(logging.WARNING, "vitjax"):
        resumed = fit(config, tmp_path, resume=True)
    (line,) = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert "step 8" in line and victim.name in line
    assert (tmp_path / "checkpoints" / "step_00000008.damaged").is_dir()
    assert_same_state(resumed.state, result.state)
    assert losses(tmp_path) == losses(straight[0])


def test_a_loss_that_is_no_number_ends_the_run(config, straight, tmp_path, one_device, monkeypatch):
    with monkeypatch.context() as patch:
        crash_after(5, patch)
        with pytest.raises(ConnectionError):
            fit(config, tmp_path)
    # Between two lines of the log, so that only the look before a save can notice.
    wild = with_train(with_optimizer(config, learning_rate=1e38), log_every=8, save_every=2)
    with pytest.raises(
        FloatingPointError, match=r"step 6: the (loss|gradient norm) is .*optimizer.clip_norm"
    ):
        fit(wild, tmp_path, resume=True)
    assert checkpoints.steps(tmp_path / "checkpoints") == [4]
    result = fit(config, tmp_path, resume=True)
    assert_same_state(result.state, straight[1].state)


def test_refuse_bad():
    good = {"bad_labels": 0, "loss": 1.0, "gradient_norm": 1.0}
    config = classifier()
    refuse_bad(good, 3, config)
    with pytest.raises(ValueError, match="step 3: 2 labels of digits are outside the model's classes"):
        refuse_bad({**good, "bad_labels": 2}, 3, config)
    for name, said in (("loss", "loss"), ("gradient_norm", "gradient norm")):
        for value in (float("nan"), float("inf")):
            with pytest.raises(FloatingPointError, match=f"step 3: the {said} is {value}"):
                refuse_bad({**good, name: np.float32(value)}, 3, config)


class Mislabelled:
    """A source with one label outside the classes."""

    def __init__(self, source, label: int):
        self.source, self.label = source, label
        self.info = dataclasses.replace(source.info, num_classes=None)  # only the model knows how many
        self.in_memory = source.in_memory

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = self.source[index]
        return {**example, "label": self.label} if index == 17 else example


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_outside_the_classes_ends_the_run(config, tmp_path, one_device, monkeypatch, label):
    source = Mislabelled(build_source(config.data, "train[:32]"), label)
    monkeypatch.setattr(streams, "build_source", lambda *_: source)
    with pytest.raises(ValueError, match=f"example 17 of digits/.* has the label {label}: expected 0 to 9"):
        fit(config, tmp_path)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: with_model(classifier(), num_classes=9),
            "model.num_classes is 9, but digits/1.0.0 has 10 classes",
        ),
        (
            lambda: with_data(transcriber(), "", name="reverse_words"),
            "the model encoder_decoder does image to text, reverse_words/1.0.0 is text to text",
        ),
        (
            lambda: with_data(classifier(), "", name="digit_strings"),
            "the model vision_transformer does image to label, digit_strings/.* is image to text",
        ),
        (
            lambda: with_vocabulary(transcriber(), "decoder", 20),
            "vocabulary_size is 20, but digit_strings has 13 tokens",
        ),
        (
            lambda: with_vocabulary(translator(), "encoder", 29),
            "the encoder's vocabulary_size is 29, but reverse_words has 30 tokens",
        ),
        (translator, "no start token"),
        (
            lambda: with_generation(transcriber(), decoder_start_token_id=0),
            "generation begins with token 0, but texts are learned from token 1 on: set .*decoder_start_token_id to 1",
        ),
        (
            lambda: with_generation(transcriber(), eos_token_id=5),
            "generation ends with token 5, but texts end with token 2: set generation.eos_token_id to 2",
        ),
        (
            lambda: with_data(transcriber(), "", max_length=12),
            "learned positions end at max_length 8, but data.max_length 12 .* go up to 11",
        ),
        (lambda: with_train(residual(), batch_size=12), "batch size 12 is not a multiple of 8"),
        (
            lambda: with_train(classifier(), batch_size=16, accumulate=4),
            "batch size 4 is not a multiple of 8",
        ),
        (
            lambda: dataclasses.replace(classifier(), mesh=MeshConfig(data=3)),
            "mesh data=3,fsdp=1,beam=1,tensor=1 takes 3 devices, found 8",
        ),
        (
            lambda: with_data(classifier(), "", train_split="training"),
            "has no split 'training': expected one of t",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_at_once(make, line, data_dir, tmp_path, monkeypatch):
    config = make()
    config = with_data(config, data_dir)
    monkeypatch.setattr(loop, "first_state", None)  # nothing may get that far
    with pytest.raises(ValueError, match=line) as refusal:
        fit(config, tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run" / "config.json").exists()


CHILD = """
import sys, time
import jax
from vitjax.cli import main
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training import loop

loop.make_mesh = lambda config: make_mesh(MeshConfig(), jax.devices()[:1])
original = loop.make_train_step

def slowly(setup, mesh):
    update = original(setup, mesh)

    def wait(state, batch):
        time.sleep(0.3)
        return update(state, batch)

    return wait

loop.make_train_step = slowly
main(["train", *sys.argv[1:]])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_a_resume_goes_on(config, straight, tmp_path, one_device, number):
    recipe = write_recipe(tmp_path, config)
    run = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "--config", recipe, "--directory", str(run)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 100
        while not ((run / "metrics.jsonl").exists() and losses(run)):
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 128 + number, err
    (stopped,) = checkpoints.steps(run / "checkpoints")
    assert f"stopped by {number.name} after step {stopped}; go on with --resume" in out
    assert "Traceback" not in err
    assert 2 <= stopped < 8
    result = fit(config, run, resume=True)
    assert_same_state(result.state, straight[1].state)
    assert losses(run) == losses(straight[0])


@pytest.mark.parametrize("mesh", ["data=8", "data=2,fsdp=2,tensor=2"])
def test_any_mesh_gives_the_same_run(config, straight, tmp_path, mesh):
    result = fit(dataclasses.replace(config, mesh=MeshConfig.parse(mesh)), tmp_path)
    expected = losses(straight[0])
    found = losses(tmp_path)
    assert found.keys() == expected.keys()
    for key, loss in expected.items():
        assert found[key] == pytest.approx(loss, abs=1e-5), key
    assert result.evaluation.predictions == straight[1].evaluation.predictions


def test_a_run_goes_on_on_another_mesh(config, straight, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_after(5, patch)
        with pytest.raises(ConnectionError):
            fit(dataclasses.replace(config, mesh=MeshConfig.parse("data=8")), tmp_path)
    fit(dataclasses.replace(config, mesh=MeshConfig.parse("data=2,fsdp=4")), tmp_path, resume=True)
    for key, loss in losses(straight[0]).items():
        assert losses(tmp_path)[key] == pytest.approx(loss, abs=1e-5), key


TOGETHER = """
import json, sys
from pathlib import Path
import vitjax
from vitjax.parallel import processes
processes.initialize(processes.ProcessConfig(heartbeat_seconds=10))
from vitjax.training.config import from_json
from vitjax.training.loop import fit

directory = Path(sys.argv[1])
config = from_json((directory / "given.json").read_text(), where="")
result = fit(config, directory)
record = {
    "step": int(result.state.step),
    "loss": result.evaluation.loss,
    "predictions": result.evaluation.predictions,
    "references": result.evaluation.references,
}
(directory / f"{processes.process_index()}.json").write_text(json.dumps(record))
processes.barrier("the end")
print("written")
"""


def test_two_processes_are_one_run(config, straight, tmp_path):
    split = dataclasses.replace(config, mesh=MeshConfig.parse("data=2,fsdp=4"))
    (tmp_path / "given.json").write_text(to_json(split))
    run_together(TOGETHER, 2, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    assert first == second
    evaluation = straight[1].evaluation
    assert first["step"] == 8
    assert first["loss"] == pytest.approx(evaluation.loss, abs=1e-5)
    assert first["predictions"] == evaluation.predictions
    assert first["references"] == evaluation.references
    found = losses(tmp_path)
    for key, loss in losses(straight[0]).items():
        assert found[key] == pytest.approx(loss, abs=1e-5), key
    assert checkpoints.steps(tmp_path / "checkpoints") == [4, 8]


def test_a_digit_classifier_learns(data_dir, tmp_path, one_device):
    """95 % of the 360 test digits after ten seconds on one core; configs/digits_vit.py goes further."""
    config = classifier(steps=400, batch_size=64, label_smoothing=0.1, ema_decay=0.98)
    config = with_train(config, log_every=200, eval_every=400, save_every=400)
    config = with_model(config, stem_widths=(32,), stem_strides=(1,))
    config = with_data(config, data_dir, mean=(0.0,), std=(0.3,), augment=Augment(shift=1.0))
    config = with_optimizer(config, learning_rate=4e-3, warmup_steps=50, weight_decay=0.05, beta2=0.99)
    result = fit(config, tmp_path)
    assert result.evaluation.accuracy.value >= 0.95
