import dataclasses
import json
import math
import shutil

import pytest

from tests.parallel.together import run_together
from tests.prepared import train_alone, with_data
from tests.training.runs import residual
from vitjax.training import checkpoints


@pytest.fixture(scope="module")
def recorded(classes_run, strings_run):
    """What the runs themselves scored at their end."""

    def last(run):
        return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])

    return {"classes": last(classes_run), "strings": last(strings_run)}


def test_classes(vitjax, classes_run, recorded):
    code, out, err = vitjax("evaluate", classes_run, "--json")
    assert (code, err) == (0, "")
    scores = json.loads(out)
    assert scores["examples"] == 360
    assert scores["accuracy"] == recorded["classes"]["accuracy"]  # averaged and frozen parts as in training
    assert scores["loss"] == pytest.approx(recorded["classes"]["loss"], abs=1e-5)
    low, high = scores["accuracy_interval"]
    assert low < scores["accuracy"] < high


def test_running_statistics(vitjax, data_dir, tmp_path):
    config = with_data(residual(), data_dir)
    fast = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=0.03))
    evaluation = train_alone(fast, tmp_path).evaluation
    code, out, err = vitjax("evaluate", tmp_path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["loss"] == pytest.approx(evaluation.loss, abs=1e-5)


TOGETHER = """
import contextlib, io, os, sys
from pathlib import Path
from vitjax.cli import main

printed = io.StringIO()  # gloo writes to the standard output beside Python
try:
    with contextlib.redirect_stdout(printed):
        main(["evaluate", sys.argv[1], "--mesh", "data=4,tensor=2", "--json"])
finally:
    (Path(sys.argv[2]) / os.environ["JAX_PROCESS_ID"]).write_text(printed.getvalue())
    print("written")
"""


def test_two_processes(classes_run, recorded, tmp_path):
    run_together(TOGETHER, 2, str(classes_run), str(tmp_path))
    assert (tmp_path / "1").read_text() == ""  # one of them speaks
    scores = json.loads((tmp_path / "0").read_text())
    assert scores["accuracy"] == recorded["classes"]["accuracy"]
    assert scores["loss"] == pytest.approx(recorded["classes"]["loss"], abs=1e-5)


def test_sequences(vitjax, strings_run, recorded):
    code, out, err = vitjax("evaluate", strings_run, "--num-beams", 2, "--json")
    assert (code, err) == (0, "")
    scores = json.loads(out)
    assert scores["examples"] == 40
    assert scores["loss"] == pytest.approx(recorded["strings"]["loss"], abs=1e-5)
    assert 0 <= scores["exact_match"] <= scores["exact_match_interval"][1]
    assert math.isfinite(scores["character_error_rate"])


def test_in_words(vitjax, words_run):
    code, out, err = vitjax("evaluate", words_run, "--split", "test[:16]", "--batch-size", 8)
    assert (code, err) == (0, "")
    assert "exact match 0.00% [" in out and "] of 16; character error rate" in out


def test_a_split_of_the_mesh(vitjax, classes_run, recorded):
    code, out, _ = vitjax("evaluate", classes_run, "--mesh", "data=2,fsdp=2,tensor=2", "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == recorded["classes"]["accuracy"]


def test_a_damaged_checkpoint_is_passed_over(vitjax, classes_run, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(classes_run, run)
    damage(run, 8)
    code, out, _ = vitjax("evaluate", run, "--split", "test[:8]", "--json")
    assert code == 0 and json.loads(out)["examples"] == 8
    (line,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert "step 8 is damaged" in line and "passed over" in line
    assert checkpoints.steps(run / "checkpoints") == [4, 8]  # a reader renames nothing


def damage(run, step: int) -> None:
    files = (run / "checkpoints" / f"step_{step:08d}").rglob("*")
    victim = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--split", "validation"], "no split 'validation': expected one of t"),
        (["--split", "test[:0]"], "no split 'test[:0]'"),
        (["--batch-size", "0"], "train.batch_size is 0"),
        (["--batch-size", "9"], "batch size 9 is not a multiple of 8"),
        (["--mesh", "data=3"], "takes 3 devices, found 8"),
        (["--mesh", "dada=8"], "did you mean 'data'?"),
        (["--num-beams", "2"], "names classes: it has no use for --num-beams"),
    ],
)
def test_a_flag_that_makes_no_sense(refusal, classes_run, arguments, line):
    assert line in refusal("evaluate", classes_run, *arguments)


def test_no_beams(refusal, strings_run):
    assert "num_beams=0: expected 1 or more" in refusal("evaluate", strings_run, "--num-beams", 0)


def test_an_unknown_flag_shows_the_usage(vitjax, classes_run):
    code, out, err = vitjax("evaluate", classes_run, "--beams", 3)
    assert (code, out) == (2, "")
    assert err.startswith("usage: vitjax evaluate") and "unrecognized arguments: --beams 3" in err
