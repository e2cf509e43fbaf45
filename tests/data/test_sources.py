"""Sources: own datasets prepared once and whole, others found or explained, damage noticed."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vitjax.data import datasets, sources
from vitjax.data.config import DataConfig
from vitjax.data.datasets import digit_strings
from vitjax.data.sources import build_source, load_builder, text_lengths, tokenizer_for

ROOT = Path(__file__).parents[2]


def refusal(config: DataConfig, split: str = "test") -> str:
    with pytest.raises(ValueError) as caught:
        build_source(config, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A TFDS dataset that vitjax knows nothing of: RGB images of several sizes and modes with labels."""

    class Foreign(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("2.1.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for place in range(6):
                mode = "L" if place == 3 else "RGB"
                yield place, {"image": Image.new(mode, (10 + place, 8), 100), "label": place % 2}

    folder = tmp_path_factory.mktemp("foreign")
    tfds.disable_progress_bar()
    Foreign(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def test_any_prepared_tfds_dataset_is_read_by_name(foreign):
    source = build_source(DataConfig("foreign", data_dir=foreign), "train")
    assert (source.info.task, source.info.num_classes, source.info.class_names) == (
        "image_to_label",
        2,
        ("cat", "dog"),
    )
    assert source.info.dataset == "foreign/2.1.0" and not source.in_memory
    shapes = {source[place]["image"].shape for place in range(len(source))}
    assert shapes == {(8, 10 + place, 1 if place == 3 else 3) for place in range(6)}
    assert len(build_source(DataConfig("foreign:2.1.0", data_dir=foreign), "train[:50%]")) == 3


def test_a_dataset_that_is_not_there_comes_with_the_command_that_makes_it(empty_dir):
    message = refusal(DataConfig("cifar10", data_dir=empty_dir))
    call = (
        f"tfds.builder('cifar10', data_dir={empty_dir!r}, file_format='array_record').download_and_prepare()"
    )
    assert call in message and "tensorflow" in message


def test_another_file_format_is_refused_with_the_command(foreign, tmp_path):
    shutil.copytree(Path(foreign) / "foreign", tmp_path / "foreign")
    info = tmp_path / "foreign" / "2.1.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    message = refusal(DataConfig("foreign", data_dir=str(tmp_path)), "train")
    assert "tfrecord" in message and "file_format='array_record'" in message


def test_names_that_do_not_exist_are_answered_with_those_that_do(data_dir):
    assert "expected one of train, test" in refusal(DataConfig("digits", data_dir=data_dir), "validation")
    assert "expected one of 16x64, 32x128" in refusal(DataConfig("digit_strings/9x9", data_dir=data_dir))
    with pytest.raises(ValueError, match="states no alphabet"):
        tokenizer_for(DataConfig("digits", data_dir=data_dir))


@pytest.mark.parametrize("name", ["digit_strings", "text_lines", "reverse_words"])
def test_datasets_with_texts_bring_their_tokenizer(data_dir, name):
    config = DataConfig(name, data_dir=data_dir)
    tokenizer, source = tokenizer_for(config), build_source(config, "test")
    assert tokenizer.alphabet == source.info.alphabet
    for place in range(len(source)):
        assert tokenizer.decode(tokenizer.encode(source[place]["text"])) == source[place]["text"]


def test_lengths_of_texts(data_dir):
    source = build_source(DataConfig("text_lines", data_dir=data_dir), "train")
    assert text_lengths(source).tolist() == [len(source[place]["text"]) for place in range(len(source))]


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_cut_file_is_noticed(data_dir, tmp_path, share):
    shutil.copytree(Path(data_dir) / "reverse_words", tmp_path / "reverse_words")
    file = next((tmp_path / "reverse_words").glob("*/*-train.array_record-*"))
    os.truncate(file, int(share * file.stat().st_size))
    message = refusal(DataConfig("reverse_words", data_dir=str(tmp_path)))
    assert str(file) in message and "delete" in message and "prepare" in message


def test_a_missing_file_is_noticed(data_dir, tmp_path):
    shutil.copytree(Path(data_dir) / "digits", tmp_path / "digits")
    next((tmp_path / "digits").glob("*/*-test.array_record-*")).unlink()
    assert "is missing, 360 examples expected" in refusal(DataConfig("digits", data_dir=str(tmp_path)))


def test_processes_that_prepare_at_once_prepare_once(empty_dir):
    program = (
        "import sys; from vitjax.data import DataConfig, build_source;"
        "print(len(build_source(DataConfig('digits', data_dir=sys.argv[1]), 'train')))"
    )
    command = [sys.executable, "-c", program, empty_dir]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        assert out == b"1437\n", "and nothing else on stdout"
    assert [path.name for path in (Path(empty_dir) / "digits").iterdir()] == ["1.0.0"]


def test_a_preparation_that_fails_leaves_nothing_behind_that_looks_prepared(empty_dir, monkeypatch):
    monkeypatch.setattr(digit_strings, "COUNTS", {"train": 30, "test": 5})
    real = digit_strings.png
    calls = iter(range(1000))
    monkeypatch.setattr(digit_strings, "png", lambda image: real(image) if next(calls) < 20 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_builder("digit_strings", empty_dir)
    monkeypatch.setattr(digit_strings, "png", real)
    assert len(build_source(DataConfig("digit_strings", data_dir=empty_dir), "train")) == 30


def test_the_memory_of_a_small_source_changes_nothing_it_gives(data_dir, monkeypatch):
    config = DataConfig("digit_strings", data_dir=data_dir)
    kept = build_source(config, "train")
    monkeypatch.setattr(sources, "CACHE_BYTES", 0)
    fresh = build_source(config, "train")
    assert kept.in_memory and not fresh.in_memory
    order = np.random.default_rng(0).permutation(len(kept))
    for source in (kept, pickle.loads(pickle.dumps(kept))):
        for place in [*order[:100].tolist(), *order[:100].tolist()]:
            first, second = source[place], fresh[place]
            assert first.keys() == second.keys()
            assert all(np.array_equal(first[key], second[key]) for key in first)
            first["text"] = "spoilt"
    with pytest.raises(ValueError, match="read-only"):
        kept[0]["image"][:] = 0


def test_every_own_dataset_states_version_and_counts(data_dir):
    for name in datasets.OWN:
        info = load_builder(name, data_dir).info
        assert str(info.version) == "1.0.0" and set(info.splits) == {"train", "test"}
        assert info.splits["test"].num_examples > 0 and info.description
