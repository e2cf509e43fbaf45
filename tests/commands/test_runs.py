"""What `evaluate`, `decode` and `inspect` say of a directory that is no run, or one that was changed."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from vitjax.training import checkpoints

COMMANDS = ["evaluate", "decode", "inspect"]


@pytest.fixture
def changed(classes_run, tmp_path) -> Path:
    """A copy to change."""
    shutil.copytree(classes_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def arguments(pictures):
    return {"evaluate": ["--split", "test[:8]"], "decode": [pictures[2]], "inspect": []}


def change_config(run: Path, change) -> None:
    record = json.loads((run / "config.json").read_text())
    change(record)
    (run / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize("command", COMMANDS)
def test_no_such_run(refusal, command, arguments, tmp_path):
    line = refusal(command, tmp_path / "nothing", *arguments[command])
    expected = "is not a run of vitjax train" if command == "evaluate" else "is not there, nor is it a hub id"
    assert f"{tmp_path}/nothing" in line and expected in line


@pytest.mark.parametrize("command", COMMANDS)
def test_no_checkpoint(refusal, command, arguments, changed):
    shutil.rmtree(changed / "checkpoints")
    assert refusal(command, changed, *arguments[command]).endswith("checkpoints holds no checkpoint")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"{", r"config.json(: the file: Invalid JSON| is not JSON: )"),
        (b"\xff\xfe\x00", r"config.json(: the file: Invalid JSON| is not JSON: )"),
        (b"[]", r"config.json(: the file: Input should be| holds a list: expected an object)"),
        (b"{}", r"config.json: name: "),
    ],
)
def test_broken_config(refusal, command, arguments, changed, content, line):
    (changed / "config.json").write_bytes(content)
    assert re.search(line, refusal(command, changed, *arguments[command]))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_key_that_does_not_exist(refusal, command, arguments, changed):
    change_config(changed, lambda record: record["model"]["transformer"].update(widht=3))
    line = refusal(command, changed, *arguments[command])
    assert "config.json: no key model.transformer.widht; did you mean model.transformer.width?" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_type(refusal, command, arguments, changed):
    change_config(changed, lambda record: record["train"].update(steps="many"))
    assert "config.json: train.steps: " in refusal(command, changed, *arguments[command])


@pytest.mark.parametrize("command", ["evaluate", "decode"])
def test_a_checkpoint_of_other_shapes(refusal, command, arguments, changed):
    change_config(changed, lambda record: record["model"]["transformer"].update(feed_forward_width=128))
    line = refusal(command, changed, *arguments[command])
    assert "blocks/feed_forward/" in line and "the model has float32(2, 32, 128)" in line or "128" in line


@pytest.mark.parametrize("command", ["evaluate", "decode"])
def test_a_checkpoint_of_another_model(refusal, command, arguments, changed):
    change_config(changed, lambda record: record["model"].update(class_token=True))
    line = refusal(command, changed, *arguments[command])
    assert "ema/class_token float32[1,1,32] is expected but not there" in line


@pytest.mark.parametrize("command", ["evaluate", "decode"])
def test_a_checkpoint_of_another_dtype(refusal, command, arguments, changed):
    state, metadata = checkpoints.restore(changed / "checkpoints")
    shutil.rmtree(changed / "checkpoints")
    low = {**state, "ema": jax.tree.map(lambda x: x.astype(np.float16), state["ema"])}
    with checkpoints.Checkpointer(changed / "checkpoints") as writer:
        writer.save(8, low, metadata)
    line = refusal(command, changed, *arguments[command])
    assert "is float16[" in line and "there, expected float32[" in line


@pytest.mark.parametrize("command", ["evaluate", "decode"])
def test_nothing_intact(vitjax, command, arguments, changed, caplog):
    for metadata in changed.glob("checkpoints/step_*/metadata.json"):
        metadata.write_text(metadata.read_text().replace("float32", "float64"))
    code, out, err = vitjax(command, changed, *arguments[command])
    assert (code, out) == (1, "")
    assert err.endswith("holds no intact checkpoint: all 2 are damaged\n")
    assert sum("is damaged" in record.getMessage() for record in caplog.records) == 2


def test_inspect_notices_damage(refusal, changed):
    metadata = changed / "checkpoints" / "step_00000008" / "metadata.json"
    metadata.write_text(metadata.read_text() + " ")
    assert "step 8 is damaged (metadata.json" in refusal("inspect", changed)


def test_a_missing_tokenizer(refusal, strings_run, tmp_path, pictures):
    shutil.copytree(strings_run, tmp_path / "run")
    (tmp_path / "run" / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refusal("decode", tmp_path / "run", pictures[0])
    (tmp_path / "run" / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is not a tokenizer" in refusal("decode", tmp_path / "run", pictures[0])
