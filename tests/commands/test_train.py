import json

import pytest

from tests.prepared import with_data, write_recipe
from tests.training.runs import classifier, transcriber
from vitjax.training import checkpoints
from vitjax.training.checkpoints import SaveFailed
from vitjax.training.config import from_json


@pytest.fixture
def recipe(tmp_path, data_dir):
    return write_recipe(tmp_path, with_data(classifier(), data_dir))


def test_overrides_and_mesh(vitjax, recipe, tmp_path):
    run = tmp_path / "run"
    code, out, err = vitjax(
        *("train", "--config", recipe, "--directory", run, "--mesh", "data=4,fsdp=2"),
        *("--train.steps", 3, "--train.log_every=1", "--optimizer.learning-rate", "2e-3"),
        *("--data.augment.flip", "True", "--train.freeze", "positions/.*"),
    )
    assert code == 0, err
    config = from_json((run / "config.json").read_text(), where="")
    assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (4, 2, 1)
    assert config.train.steps == 3
    assert config.train.freeze == ("positions/.*",)
    assert config.optimizer.learning_rate == 2e-3
    assert config.data.augment.flip
    assert config.model == classifier().model
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 3]
    assert checkpoints.steps(run / "checkpoints") == [3]
    scores, where = out.splitlines()
    assert scores.startswith("loss 2.") and "of 360" in scores
    assert where.endswith(f"written to {run}")
    assert "train  3/3 100%" in err

    code, out, _ = vitjax(
        "train",
        "--config",
        recipe,
        "--directory",
        run,
        "--resume",
        "--train.steps",
        3,
        "--mesh",
        "data=4,fsdp=2",
        "--data.augment.flip",
        "True",
        "--train.freeze",
        "positions/.*",
    )
    assert code == 0
    assert out == f"{run} was already at step 3; --train.steps takes it further\n"


def test_a_run_in_the_way(refusal, recipe, classes_run):
    line = refusal("train", "--config", recipe, "--directory", classes_run)
    assert line.endswith("already holds a run at step 8: continue it with --resume, or give another --name")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--train.stepz", "3"], "no option --train.stepz; did you mean --train.steps?"),
        (["--train.step-s", "3"], "no option --train.step-s; did you mean --train.steps?"),
        (["--optimizer.lr", "3"], "no option --optimizer.lr; did you mean --optimizer.eps?"),
        (["--resumee"], "no option --resumee; did you mean --resume?"),
        (["--mehs", "data=8"], "no option --mehs; did you mean --mesh?"),
        (["--train.steps", "many"], "--train.steps"),
        (["--train.steps", "1.5"], "--train.steps"),
        (["--train.steps"], "--train.steps"),
        (["--train.steps", "0"], "train.steps is 0: expected at least 1"),
        (["--train.accumulate", "3"], "train.batch_size 16 is not a multiple of train.accumulate 3"),
        (["--model.transformer.dtype", "float8"], "--model.transformer.dtype"),
        (["--data.image_size", "8"], "--data.image-size"),
        (["--data.channels", "3"], "the model reads images of 1 channels, data.channels is 3"),
        (["--data.image_size", "8", "9"], "patches of stride 2x2, which does not divide it"),
        (["--model.num_classes", "9"], "model.num_classes is 9, but digits/1.0.0 has 10 classes"),
        (["--data.name", "digit_strings"], "digit_strings/16x64/1.0.0 is image to text"),
        (["--data.name", "imagenet2012"], "dataset 'imagenet2012' is not under "),
        (["--data.train_split", "trian"], "no split 'trian': expected one of t"),
        (["--mesh", "data=3"], "mesh data=3,fsdp=1,beam=1,tensor=1 takes 3 devices, found 8"),
        (["--mesh", "data=-1,fsdp=3"], "does not divide 8 devices"),
        (["--mesh", "date=8"], "no axis 'date'; did you mean 'data'?"),
        (["--mesh", "data=two"], "data='two' is not a whole number"),
        (["--mesh"], "--mesh needs a value, such as data=4,fsdp=2"),
        (["--mesh", "--train.steps", "3"], "--mesh needs a value, such as data=4,fsdp=2"),
        (["--train.batch_size", "12"], "batch size 12 is not a multiple of 8"),
        (["--train.freeze", "blocs/.*"], "train.freeze: no parameter matches 'blocs/.*'"),
        (["--processes", "2", "--process", "0"], "2 processes asked for but no coordinator"),
    ],
)
def test_a_flag_that_makes_no_sense(refusal, recipe, tmp_path, arguments, line):
    assert line in refusal("train", "--config", recipe, "--directory", tmp_path / "run", *arguments)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "no config file"),
        ("x = 1\n", "has no function get_config()"),
        ("def get_config():\n    return 3\n", "get_config() returned int"),
        ("def get_config(:\n", "recipe.py:1: SyntaxError"),
        ("import vitjacks\n", "recipe.py:1: ModuleNotFoundError: No module named 'vitjacks'"),
        (
            "def get_config():\n\n    return Config()\n",
            "recipe.py:3: NameError: name 'Config' is not defined",
        ),
        ("def get_config(size):\n    return size\n", "recipe.py: TypeError: get_config() missing 1"),
    ],
)
def test_a_config_file_that_is_none(refusal, tmp_path, text, line):
    recipe = tmp_path / "recipe.py"
    if text is not None:
        recipe.write_text(text)
    assert line in refusal("train", "--config", recipe)


def test_a_config_is_needed(refusal, recipe):
    assert "no --config FILE" in refusal("train")
    assert "no --config FILE" in refusal("train", recipe)
    assert "no --config FILE" in refusal("train", "--train.steps", 3)


def test_help_lists_every_key(vitjax, recipe):
    code, out, _ = vitjax("train", "--config", recipe, "--help")
    assert code == 0
    for key in ("--train.steps", "--model.transformer.width", "--data.augment.rotation", "--mesh.fsdp"):
        assert key in out
    assert "Updates of the parameters." in out


def test_data_that_cannot_be_resumed(refusal, recipe, data_dir, tmp_path, vitjax):
    run = tmp_path / "run"
    short = ("--directory", run, "--train.steps", 1, "--mesh", "data=8")
    assert vitjax("train", "--config", recipe, *short).code == 0
    line = refusal("train", "--config", recipe, *short, "--resume", "--train.seed", 5)
    assert "was trained with data seed=0, now it is 5" in line
    line = refusal("train", "--config", recipe, *short, "--resume", "--model.transformer.width", 64)
    assert "is float32[" in line and "it was saved with another configuration" in line
    (tmp_path / "other").mkdir()
    other = write_recipe(tmp_path / "other", with_data(transcriber(), data_dir))
    line = refusal("train", "--config", other, *short, "--resume")
    assert "it was saved" in line


def test_a_checkpoint_that_could_not_be_written(refusal, recipe, tmp_path, monkeypatch):
    def full(*_, **__):
        raise SaveFailed("step 3 was not saved to runs/x: no space left on device")

    monkeypatch.setattr("vitjax.training.loop.fit", full)
    line = refusal("train", "--config", recipe, "--directory", tmp_path)
    assert line == "step 3 was not saved to runs/x: no space left on device"
