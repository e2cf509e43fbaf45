import dataclasses
import json

import pytest

from tests.training.runs import classifier, residual, transcriber, translator
from vitjax.models.config import reads_images
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.parallel.mesh import MeshConfig
from vitjax.training.config import TrainConfig, from_json, to_json
from vitjax.training.mixing import MixingConfig


@pytest.mark.parametrize("family", [classifier, residual, transcriber, translator])
def test_json_and_back(family):
    config = family(freeze=("head/.*",), ema_decay=0.5)
    assert from_json(to_json(config), where="here") == config


def test_broken_json_names_file_and_field():
    record = json.loads(to_json(classifier()))
    record["train"]["steps"] = "many"
    with pytest.raises(ValueError, match=r"run/config.json: train.steps: .*integer"):
        from_json(json.dumps(record), where="run/config.json")
    del record["train"]
    with pytest.raises(ValueError, match="run/config.json: train: "):
        from_json(json.dumps(record), where="run/config.json")
    with pytest.raises(ValueError, match="^run/config.json: "):
        from_json("{", where="run/config.json")


def test_what_a_model_reads():
    assert reads_images(classifier().model)
    assert reads_images(transcriber().model)
    assert not reads_images(translator().model)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", -1),
        ("ema_decay", 1.0),
        ("label_smoothing", -0.1),
        ("parallel_fraction", 1.1),
    ],
)
def test_values_out_of_range(field, value):
    with pytest.raises(ValueError, match=f"train.{field} is {value}"):
        dataclasses.replace(TrainConfig(steps=1, batch_size=2), **{field: value})


def test_options_that_contradict():
    with pytest.raises(ValueError, match="not a multiple of train.accumulate 3"):
        TrainConfig(steps=1, batch_size=8, accumulate=3)
    with pytest.raises(ValueError, match="needs a classifier"):
        dataclasses.replace(transcriber(), mixing=MixingConfig(mixup=0.2))
    with pytest.raises(ValueError, match="mesh beam=2: a run has no beams to split while it trains"):
        dataclasses.replace(classifier(), mesh=MeshConfig(beam=2))


def test_models_that_cannot_predict_in_parallel():
    with pytest.raises(ValueError, match="the model vision_transformer names classes: set it to 0"):
        classifier(parallel_fraction=0.5)
    recurrent = ShowAttendTellConfig(
        transcriber().model.encoder, vocabulary_size=13, width=8, embedding_width=8, attention_width=8
    )
    one_by_one = dataclasses.replace(transcriber(), model=recurrent)
    with pytest.raises(ValueError, match="show_attend_tell must read each token before the next"):
        dataclasses.replace(one_by_one, train=TrainConfig(steps=1, batch_size=8, parallel_fraction=0.5))
    with pytest.raises(ValueError, match=r"mask token: set model.decoder.parallel_prediction"):
        transcriber(parallel_fraction=0.5)
