import dataclasses

import pytest

from tests.training.runs import classifier, transcriber
from vitjax.commands.overrides import apply_overrides
from vitjax.parallel.mesh import MeshConfig


def test_nothing_changes_nothing():
    assert apply_overrides(transcriber(), [], prog="x") == transcriber()


def test_typed_values_of_every_kind():
    config = apply_overrides(
        transcriber(),
        "--name other --train.ema_decay 0.5 --train.freeze a b --optimizer.beta2 None --mesh=tensor=2 "
        "--generation.early_stopping never --model.decoder.max_length 9 --data.mean 0.25".split(),
        prog="x",
    )
    assert config.name == "other"
    assert config.train.ema_decay == 0.5
    assert config.train.freeze == ("a", "b")
    assert config.optimizer.beta2 is None
    assert config.mesh == MeshConfig(data=-1, fsdp=1, tensor=2)
    assert config.generation.early_stopping == "never"
    assert config.model.decoder.max_length == 9
    assert config.model.encoder == transcriber().model.encoder
    assert config.data.mean == (0.25,)


def test_a_mesh_axis_alone():
    config = dataclasses.replace(classifier(), mesh=MeshConfig(data=4))
    assert apply_overrides(config, ["--mesh.fsdp", "2"], prog="x").mesh == MeshConfig(data=4, fsdp=2)


@pytest.mark.parametrize(
    "arguments",
    [["--model.wdth", "3"], ["--train.steps", "x"], ["--mesh", "x=1"], ["positional"], ["--name"]],
)
def test_a_refusal_is_one_line(arguments, capsys):
    with pytest.raises(ValueError) as refusal:
        apply_overrides(classifier(), arguments, prog="x")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) > 10
    assert "│" not in str(refusal.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("--train.stpes", "--train.steps"),
        ("--model.transformer.widht", "--model.transformer.width"),
        ("--modle.num_classes", "--model.num_classes"),
        ("--steps", "--train.steps"),
        ("--fsdp", "--mesh.fsdp"),
    ],
)
def test_the_nearest_key_is_named(given, near):
    with pytest.raises(ValueError, match=f"no option {given}; did you mean {near}\\?"):
        apply_overrides(classifier(), [given, "3"], prog="x")
