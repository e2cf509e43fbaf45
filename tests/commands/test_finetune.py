"""The command line of a run that starts from a checkpoint: `--init DIR`."""

import json
import shutil
from pathlib import Path

import pytest

from tests.prepared import with_data, write_recipe, write_run
from tests.training.runs import classifier
from vitjax.training.config import from_json
from vitjax.training.start import NAME

RECIPE = Path(__file__).parents[2] / "configs" / "finetune.py"
LORA = ("--lora.rank", 2, "--lora.patterns", ".*/feed_forward/.*", "--optimizer.layer_decay", 1.0)


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    return write_run(classifier(ema_decay=0.5), tmp_path_factory.mktemp("classes"))


def test_a_run_from_a_run(vitjax, refusal, classes, data_dir, tmp_path):
    run, source = tmp_path / "run", tmp_path / "source"
    shutil.copytree(classes, source)
    short = (
        "--train.steps",
        2,
        "--train.batch_size",
        16,
        "--optimizer.warmup_steps",
        1,
        "--data.data_dir",
        data_dir,
    )
    common = ("train", "--config", RECIPE, "--directory", run, *short, *LORA)
    assert "finetune.py starts from a checkpoint: say which by --init DIR" in refusal(*common)
    code, out, err = vitjax(*common, "--init", source)
    assert code == 0, err
    said = [line for line in err.splitlines() if line.startswith(("taken", "new", "left"))]
    assert said[0].startswith("taken: 21 arrays from ") and str(source) in said[0]
    assert said[1:] == ["new: head/bias, head/kernel", "left there: head/bias, head/kernel"]
    config = from_json((run / "config.json").read_text(), where="")
    assert (config.init.checkpoint, config.init.new) == (str(source), (r"head(_\w+)?/.*",))
    assert config.model.num_classes == 10 and config.data.image_size == (8, 8)

    shutil.rmtree(source)
    code, again, err = vitjax(*common, "--resume")
    assert (code, again) == (0, f"{run} was already at step 2; --train.steps takes it further\n"), err
    scores = json.loads(vitjax("evaluate", run, "--data-dir", data_dir, "--batch-size", 16, "--json").out)
    assert out.startswith(f"loss {scores['loss']:.4f}; accuracy {scores['accuracy']:.2%}")
    record = json.loads(vitjax("inspect", run, "--json").out)
    assert record["started"] == said
    assert record["factors"] == 2 * 2 * (2 * (32 + 64)) and record["trainable"] == record["factors"] + 330
    assert record["parameters"] == json.loads(vitjax("inspect", classes, "--json").out)["parameters"]

    (run / NAME).write_text("{}")
    assert "init.json: pretrained: Field required" in refusal(*common, "--resume")


def test_a_plan_reads_no_array(vitjax, refusal, classes, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(classes / "config.json", bare)
    arguments = ("plan", "--config", RECIPE, "--mesh", "data=2", "--train.batch_size", 16)
    code, out, err = vitjax(*arguments, "--init", bare, *LORA, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["trainable"] == 2 * 2 * (2 * (32 + 64)) + 330 < plan["parameters"]
    assert any(array["path"] == "lora/blocks/feed_forward/up/kernel/a" for array in plan["arrays"])
    assert "has head/bias, which" in refusal(
        *arguments, "--init", bare, "--init.new", "norm/.*", "--model.num_classes", 0
    )
    assert refusal(*arguments, "--init", tmp_path / "nothing").startswith(f"{tmp_path}/nothing is not there")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model.num_classes", "12"], "head/bias is [10], this run's model has [12]: "),
        (["--model.class_token", "True"], "has no class_token, which this run's model has: "),
        (["--init.part", "encoder"], "init.part is 'encoder': "),
        (["--init.fresh", "head/.*"], "no option --init.fresh; did you mean --init."),
    ],
)
def test_a_recipe_with_a_model_of_its_own(refusal, classes, data_dir, tmp_path, arguments, line):
    recipe, run = write_recipe(tmp_path, with_data(classifier(), data_dir)), tmp_path / "run"
    given = ("train", "--config", recipe, "--directory", run, "--init", classes)
    assert line in refusal(*given, *arguments)
    assert not (run / "config.json").exists()
