import json
import os
import subprocess
import sys

import pytest

from tests.parallel.together import ROOT
from tests.prepared import with_data, write_recipe
from tests.training.runs import classifier


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path, with_data(classifier(), "/nowhere"))


def test_json(vitjax, recipe):
    code, out, err = vitjax("plan", "--config", recipe, "--mesh", "data=2,fsdp=2", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["mesh"] == {"data": 2, "fsdp": 2, "beam": 1, "tensor": 1}
    assert plan["parameters"] == plan["trainable"] > 10_000
    assert plan["xla_flops"] == pytest.approx(plan["analytic_flops"], rel=0.35)
    kernel = next(array for array in plan["arrays"] if array["path"] == "blocks/feed_forward/up/kernel")
    assert kernel["shape"] == [2, 32, 64]
    assert "fsdp" in kernel["spec"] and "over fsdp" in kernel["reason"]


def test_in_words(vitjax, recipe):
    code, out, err = vitjax("plan", "--config", recipe, "--mesh", "data=2,fsdp=2", "--train.batch_size", "8")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("classifier on 4 x ") and lines[0].endswith(
        ": data 2, fsdp 2, beam 1, tensor 1"
    )
    assert "a step of 8 examples" in lines
    assert any(line.split()[:1] == ["head/bias"] for line in lines)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--mesh", "data=16"], "takes 16 devices, found 8"),
        (["--mesh", "data=-1,tensor=3"], "does not divide 8 devices"),
        (["--train.batch_size", "3"], "batch size 3 is not a multiple of 8"),
        (["--train.stepz", "3"], "did you mean --train.steps?"),
        (["--data.channels", "3"], "the model reads images of 1 channels"),
    ],
)
def test_what_makes_no_sense(refusal, recipe, arguments, line):
    assert line in refusal("plan", "--config", recipe, *arguments)


def test_a_config_is_needed(vitjax):
    code, _, err = vitjax("plan")
    assert code == 2 and "--config" in err


def test_devices_that_are_not_there_are_simulated():
    """Also for a model that starts from a checkpoint: what that says of itself is read before any device is touched."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    child = subprocess.run(
        [sys.executable, "-m", "vitjax.cli", "plan", "--config", "configs/finetune.py", "--mesh", "data=3,tensor=2",
         "--init", "tests/golden/weights/vit_hf", "--json", "--train.batch_size", "6"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout)["mesh"] == {"data": 3, "fsdp": 1, "beam": 1, "tensor": 2}
