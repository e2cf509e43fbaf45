"""Batches: a function of (seed, step) alone, checked on the host, complete in evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.data.config import Augment, DataConfig
from vitjax.data.pipeline import eval_batches, fingerprint, train_batches
from vitjax.data.sources import SourceInfo, build_source
from vitjax.data.tokenizers import CharacterTokenizer

AUGMENT = Augment(flip=True, rotation=10.0, shift=1.0, intensity=0.2)


@pytest.fixture(scope="module")
def strings(data_dir):
    return DataConfig(
        "digit_strings", data_dir=data_dir, image_size=(16, 64), channels=1, max_length=8, augment=AUGMENT
    )


@pytest.fixture(scope="module")
def digits(data_dir):
    return DataConfig("digits", data_dir=data_dir, image_size=(8, 8), channels=1, augment=AUGMENT)


class Listed:
    """A source of a few examples in memory, as a user's own folder might be one."""

    in_memory = True

    def __init__(self, examples, task="image_to_label", **info):
        self.examples = examples
        self.info = SourceInfo("listed", "train", len(examples), size=1, task=task, **info)

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return dict(self.examples[index])


def take(batches, count):
    with batches:
        return [next(batches) for _ in range(count)]


def same(first, second):
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def joined(parts):
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def test_batches_are_what_the_contract_says(strings, digits, data_dir):
    batch = take(train_batches(strings, batch_size=6, seed=0), 1)[0]
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "image": (np.uint8, (6, 16, 64, 1)),
        "tokens": (np.int32, (6, 8)),
    }
    assert (batch["tokens"][:, 0] == 1).all() and ((batch["tokens"] == 2).sum(1) == 1).all()
    batch = take(train_batches(digits, batch_size=6, seed=0), 1)[0]
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "image": (np.uint8, (6, 8, 8, 1)),
        "label": (np.int32, (6,)),
    }
    words = DataConfig("reverse_words", data_dir=data_dir, max_length=32)
    batch = take(train_batches(words, batch_size=6, seed=0), 1)[0]
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "source": (np.int32, (6, 32)),
        "source_mask": (bool, (6, 32)),
        "tokens": (np.int32, (6, 32)),
    }
    tokenizer = CharacterTokenizer(" abcdefghijklmnopqrstuvwxyz")
    for source, mask, tokens in zip(
        *(batch[key] for key in ("source", "source_mask", "tokens")), strict=True
    ):
        assert np.array_equal(mask, source != 0) and source[0] >= 3
        assert tokenizer.decode(source[mask]).split() == tokenizer.decode(tokens).split()[::-1]


def test_the_same_seed_gives_the_same_and_another_gives_another(strings):
    first, again, other = (take(train_batches(strings, batch_size=16, seed=seed), 4) for seed in (3, 3, 4))
    assert same(first, again)
    assert not any(same([a], [b]) for a, b in zip(first, other, strict=True))


@given(start=st.integers(0, 400), seed=st.integers(0, 2**40))
def test_a_resume_at_any_step_goes_on_as_if_never_stopped(digits, start, seed):
    # 1,437 examples in batches of 16: 400 steps are more than four epochs.
    source = build_source(digits, "train")
    before = max(0, start - 2)
    straight = take(train_batches(digits, batch_size=16, seed=seed, start_step=before, source=source), 4)
    resumed = take(train_batches(digits, batch_size=16, seed=seed, start_step=start, source=source), 2)
    assert same(straight[min(2, start) :][:2], resumed)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_read_what_one_would(strings, processes):
    alone = take(train_batches(strings, batch_size=16, seed=5, start_step=7), 3)
    parts = [
        take(
            train_batches(
                strings, batch_size=16, seed=5, start_step=7, process_index=index, process_count=processes
            ),
            3,
        )
        for index in range(processes)
    ]
    assert same(alone, [joined(part) for part in zip(*parts, strict=True)])


def test_a_curriculum_begins_with_the_shortest_and_ends_with_all(strings):
    config = replace(strings, curriculum_steps=60)
    with train_batches(config, batch_size=50, seed=0) as batches:
        longest, mean = zip(
            *(
                (lengths.max(), lengths.mean())
                for lengths in ((next(batches)["tokens"] > 2).sum(1) for _ in range(120))
            ),
            strict=True,
        )
    assert longest[0] == 1 and max(longest[:10]) <= 2 and max(longest[60:]) == 6
    assert all(max(longest[:step]) <= 2 + 5 * step / 60 for step in range(1, 60))
    # Afterwards: every example once in 18 batches of 50, as without a curriculum.
    plain = take(train_batches(replace(strings, augment=Augment()), batch_size=50, seed=0), 2)
    after = take(train_batches(replace(config, augment=Augment()), batch_size=50, seed=0, start_step=60), 2)
    assert same(plain, after)


def test_a_curriculum_is_a_function_of_seed_and_step_too(strings):
    config = replace(strings, curriculum_steps=6)
    straight = take(train_batches(config, batch_size=8, seed=1), 9)
    resumed = take(train_batches(config, batch_size=8, seed=1, start_step=4), 5)
    assert same(straight[4:], resumed)
    halves = [
        take(train_batches(config, batch_size=8, seed=1, process_index=index, process_count=2), 9)
        for index in range(2)
    ]
    assert same(straight, [joined(part) for part in zip(*halves, strict=True)])
    assert not same(straight, take(train_batches(config, batch_size=8, seed=2), 9))


def test_a_curriculum_of_labels_is_refused(digits):
    with pytest.raises(ValueError, match="digits/1.0.0 has labels, not texts: set curriculum_steps to 0"):
        train_batches(replace(digits, curriculum_steps=5), batch_size=8, seed=0)


def test_workers_change_nothing(strings):
    strings = replace(strings, curriculum_steps=5)
    here = take(train_batches(strings, batch_size=8, seed=1, start_step=3), 5)
    there = take(train_batches(replace(strings, workers=2), batch_size=8, seed=1, start_step=3), 5)
    assert same(here, there)


def test_an_epoch_holds_every_example_once_and_the_next_is_in_another_order():
    source = Listed([{"image": np.full((2, 2, 1), place, np.uint8), "label": place} for place in range(12)])
    config = DataConfig("listed", image_size=(2, 2), channels=1)
    batches = take(train_batches(config, batch_size=4, seed=0, source=source), 9)
    epochs = np.concatenate([batch["label"] for batch in batches]).reshape(3, 12)
    assert (np.sort(epochs, axis=1) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert all((batch["image"][:, 0, 0, 0] == batch["label"]).all() for batch in batches)


def test_a_batch_may_be_larger_than_the_dataset():
    source = Listed([{"image": np.zeros((2, 2, 1), np.uint8), "label": place} for place in range(3)])
    config = DataConfig("listed", image_size=(2, 2), channels=1)
    batch = take(train_batches(config, batch_size=7, seed=0, source=source), 1)[0]
    assert np.bincount(batch["label"]).tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])


def test_augmentation_leaves_the_order_alone_and_differs_from_epoch_to_epoch(digits):
    plain = take(train_batches(replace(digits, augment=Augment()), batch_size=32, seed=2), 3)
    changed = take(train_batches(digits, batch_size=32, seed=2), 3)
    for a, b in zip(plain, changed, strict=True):
        assert np.array_equal(a["label"], b["label"]) and not np.array_equal(a["image"], b["image"])
    one = Listed([{"image": np.tile(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 1), "label": 0}])
    images = take(train_batches(digits, batch_size=16, seed=0, source=one), 1)[0]["image"]
    assert len({image.tobytes() for image in images}) == 16


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_outside_the_classes_is_one_clear_line(label):
    image = np.zeros((2, 2, 1), np.uint8)
    source = Listed([{"image": image, "label": 3}, {"image": image, "label": label}], num_classes=10)
    config = DataConfig("listed", image_size=(2, 2), channels=1)
    for batches in (
        train_batches(config, batch_size=4, seed=0, source=source),
        iter(eval_batches(config, batch_size=4, source=source)),
    ):
        with pytest.raises(ValueError) as caught, batches:
            next(batches)
        assert str(caught.value) == f"example 1 of listed[train] has the label {label}: expected 0 to 9"


def test_a_model_with_fewer_classes_than_the_dataset_is_told(digits):
    with pytest.raises(ValueError, match="has the label [5-9]: expected 0 to 4"):
        take(train_batches(digits, batch_size=64, seed=0, num_classes=5), 1)


def test_a_text_that_cannot_be_a_target_is_one_clear_line(strings):
    with pytest.raises(
        ValueError, match=r"example \d+ of digit_strings/16x64/1.0.0\[train\]: text .* max_length is 4"
    ):
        take(train_batches(replace(strings, max_length=4), batch_size=64, seed=0), 1)
    with pytest.raises(ValueError, match="is not in the tokenizer's alphabet '01'"):
        take(train_batches(strings, batch_size=64, seed=0, tokenizer=CharacterTokenizer("01")), 1)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("batch_size", [16, 360, 1000])
def test_evaluation_sees_every_example_once(digits, batch_size, processes):
    source = build_source(digits, "test")
    parts = [
        list(eval_batches(digits, batch_size=batch_size, process_index=index, process_count=processes))
        for index in range(processes)
    ]
    batches = [joined(part) for part in zip(*parts, strict=True)]
    assert len(batches) == len(eval_batches(digits, batch_size=batch_size)) == -(-360 // batch_size)
    assert all(batch["mask"].dtype == bool and len(batch["mask"]) == batch_size for batch in batches)
    everything = joined(batches)
    real = everything["mask"]
    assert real.sum() == 360 and real[:360].all()
    assert everything["label"][real].tolist() == [source[place]["label"] for place in range(360)]
    assert np.array_equal(
        everything["image"][real], np.stack([source[place]["image"] for place in range(360)])
    )


def test_evaluation_can_be_repeated(digits):
    batches = eval_batches(digits, batch_size=100)
    assert same(list(batches), list(batches))


def test_closing_ends_the_iteration(strings):
    batches = train_batches(strings, batch_size=8, seed=0)
    next(batches)
    batches.close()
    batches.close()
    assert list(batches) == []


def test_a_batch_that_processes_cannot_share_is_refused(strings):
    with pytest.raises(ValueError, match="batch size 10 cannot be shared by 4 processes"):
        train_batches(strings, batch_size=10, seed=0, process_count=4)
    with pytest.raises(ValueError, match="process index 4: expected 0 to 3"):
        eval_batches(strings, batch_size=8, process_index=4, process_count=4)


def test_the_fingerprint_names_what_the_order_depends_on_and_nothing_else(strings):
    def print_of(config, **changes):
        return fingerprint(config, **({"batch_size": 64, "seed": 1} | changes))

    first = print_of(strings)
    assert json.loads(json.dumps(first)) == first
    assert first["dataset"] == "digit_strings/16x64/1.0.0" and first["examples"] == 900
    for other in (
        print_of(strings, batch_size=32),
        print_of(strings, seed=2),
        print_of(replace(strings, augment=Augment())),
        print_of(replace(strings, image_size=(8, 32))),
        print_of(replace(strings, train_split="train[:50%]")),
        print_of(replace(strings, curriculum_steps=5)),
    ):
        assert other != first
    assert print_of(replace(strings, workers=3, eval_split="train")) == first
