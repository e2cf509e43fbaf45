import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.parallel.together import ROOT
from vitjax.api import load
from vitjax.commands import progress
from vitjax.commands.transcribe import Transcriber
from vitjax.data.images import read_image

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """However slow the machine, no line of progress."""
    monkeypatch.setattr(progress, "INTERVAL", math.inf)


def test_images(vitjax, strings_run, pictures):
    code, out, err = vitjax("decode", strings_run, *pictures[:2])
    assert (code, err) == (0, "")
    model = load(strings_run)
    texts = model.generate(np.stack([read_image(name) for name in pictures[:2]])).text()
    for line, name, (text,) in zip(out.splitlines(), pictures[:2], texts, strict=True):
        assert line.startswith(f"{name}: {text}  (score -")
        assert "tokens [1" in line


def test_beams_as_json(vitjax, strings_run, pictures):
    code, out, err = vitjax(
        *("decode", strings_run, *pictures[:2], "--num-beams", 4, "--num-return-sequences", 3, "--json"),
        *("--length-penalty", 0.5, "--max-length", 5),
    )
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["source"] for record in records] == pictures[:2]
    tokenizer = load(strings_run).tokenizer
    for record in records:
        scores = [one["score"] for one in record["hypotheses"]]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(one["tokens"]) for one in record["hypotheses"]}) == 3
        for one in record["hypotheses"]:
            assert one["text"] == tokenizer.decode(one["tokens"])
            assert one["tokens"][0] == 1 and one["length"] == len(one["tokens"]) <= 5
            assert one["finish_reason"] == ("stop" if one["tokens"][-1] == 2 else "length")
            assert one["token_log_probs"][0] == 0 and len(one["token_log_probs"]) == one["length"]
            mean = sum(one["token_log_probs"]) / (one["length"] - 1) ** 0.5
            assert one["score"] == pytest.approx(mean, abs=1e-5)


def test_attention(vitjax, strings_run, pictures, tmp_path):
    where = tmp_path / "where.png"
    code, _, err = vitjax("decode", strings_run, pictures[0], "--attention", where)
    assert (code, err) == (0, "")
    with Image.open(where) as drawn:
        drawn.load()
        assert min(drawn.size) > 50


def test_attention_of_several_images(vitjax, strings_run, pictures, tmp_path):
    (tmp_path / "in" / "b").mkdir(parents=True)
    for picture, name in ((pictures[0], "a.png"), (pictures[1], "b/c.jpg")):
        Image.open(picture).save(tmp_path / "in" / name)
    arguments = ["decode", strings_run, tmp_path / "in", "--attention", tmp_path / "out"]
    assert vitjax(*arguments).code == 0
    drawn = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert drawn == ["a.png", "b/c.jpg.png"]


def test_an_image_of_another_size(vitjax, strings_run, tmp_path):
    Image.effect_noise((200, 90), 80).convert("RGB").save(tmp_path / "photo.jpg")
    code, out, err = vitjax("decode", strings_run, tmp_path / "photo.jpg", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["tokens"]


def test_text(vitjax, words_run):
    code, out, err = vitjax("decode", words_run, "--text", "hello", "world", "--json", "--num-beams", 2)
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["source"] for record in records] == ["hello", "world"]
    # a longer neighbour pads a text and must not change it
    _, alone, _ = vitjax("decode", words_run, "--text", "hello", "--json", "--num-beams", 2)
    _, padded, _ = vitjax("decode", words_run, "--text", "hello", "neighbour", "--json", "--num-beams", 2)
    alone, padded = json.loads(alone), json.loads(padded.splitlines()[0])
    assert padded["tokens"] == alone["tokens"]
    assert padded["score"] == pytest.approx(alone["score"], abs=1e-4)


def test_lines_of_a_file(vitjax, words_run, tmp_path):
    (tmp_path / "words.txt").write_text("hello\nworld\nhello\n")
    file = vitjax("decode", words_run, "--text-file", tmp_path / "words.txt")
    assert file == vitjax("decode", words_run, "--text", "hello", "world")
    (tmp_path / "words.txt").write_text("hello\nWORLD\n")
    code, out, err = vitjax("decode", words_run, "--text-file", tmp_path / "words.txt", "--json")
    good, bad = map(json.loads, out.splitlines())
    assert (good["source"], bad["source"]) == ("hello", "WORLD") and good["tokens"]
    assert "has the character 'W'" in bad["error"]
    assert code == 1 and "1 of 2 texts could not be read, first: text 'WORLD' has" in err


def test_classes(vitjax, classes_run, pictures, tmp_path):
    code, out, err = vitjax("decode", classes_run, pictures[2], pictures[0], "--json")
    assert (code, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    model = load(classes_run)
    logits = np.asarray(model.logits(model.preprocess(read_image(pictures[2]))[None]))[0]
    assert first["label"] == int(logits.argmax())
    assert first["probability"] == pytest.approx(1 / np.exp(logits - logits.max()).sum(), abs=1e-6)
    assert second["source"] == pictures[0]
    written = vitjax("decode", classes_run, pictures[2], pictures[0], "--output", tmp_path / "classes.jsonl")
    assert written.code == 0 and (tmp_path / "classes.jsonl").read_text() == out
    drawing = vitjax(
        "decode", classes_run, pictures[2], pictures[0], "--json", "--attention", tmp_path / "why"
    )
    assert (drawing.code, drawing.err) == (0, "")
    for got, want in zip(map(json.loads, drawing.out.splitlines()), (first, second), strict=True):
        assert got.keys() == want.keys() and got["label"] == want["label"]
        assert got["probability"] == pytest.approx(want["probability"], abs=1e-6)
    assert len(list((tmp_path / "why").rglob("*.png"))) == 2
    # the second batch is smaller
    code, out, _ = vitjax("decode", classes_run, *pictures, "--batch-size", 2)
    line = f"{pictures[2]}: class {first['label']}  (probability {first['probability']:.4f})"
    assert line in out.splitlines()


@pytest.mark.parametrize("way", ["crop", "patches"])
def test_images_are_turned_upright_and_brought_to_the_models_size_once(classes_run, tmp_path, way):
    """Loaded models cut (`crop`) or keep the aspect (`patches`): a batch then has several sizes."""
    model = load(classes_run)
    preprocess = dataclasses.replace(
        model.preprocess, resize=way, resize_size=(10, 10), patch_size=2, max_patches=16
    )
    model = dataclasses.replace(model, preprocess=preprocess)
    rng = np.random.default_rng(0)
    upright = [
        rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((9, 25), (30, 9), (9, 25))
    ]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    names = [str(tmp_path / f"{place}.png") for place in range(3)]
    for name, image in zip(names, upright, strict=True):
        Image.fromarray(np.rot90(image)).save(name, exif=exif)
    transcriber = Transcriber(model, {}, {}, batch_size=4)
    (records,) = transcriber.batches(names)
    assert [record["source"] for record in records] == names
    for record, image in zip(records, upright, strict=True):
        logits = np.asarray(model.logits([image]))[0]
        expected = np.exp(logits.max() - np.logaddexp.reduce(logits))
        assert record["probability"] == pytest.approx(expected, abs=1e-6)


def test_a_published_checkpoint(vitjax, tmp_path):
    """Its preprocessing is read with it, and a photo taken sideways is turned as transformers' `load_image` does."""
    published, photo = GOLDEN / "weights" / "vit_hf", GOLDEN / "preprocess" / "images" / "rotated.png"
    code, out, err = vitjax("decode", published, photo, "--json")
    assert (code, err) == (0, "")
    model = load(published)
    image = (
        Image.open(photo).transpose(Image.Transpose.ROTATE_270).resize((25, 25), Image.Resampling.BILINEAR)
    )
    logits = np.asarray(model.logits(np.float32(image)[None] / 127.5 - 1))[0]
    record = json.loads(out)
    assert record["label"] == logits.argmax()
    assert record["probability"] == pytest.approx(1 / np.exp(logits - logits.max()).sum(), abs=1e-5)
    bare = tmp_path / "bare"
    shutil.copytree(published, bare, ignore=shutil.ignore_patterns("preprocessor_config.json"))
    code, _, err = vitjax("decode", bare, photo)
    assert code == 1 and "bare has no preprocessor_config.json: images cannot be brought to its size" in err


@pytest.mark.parametrize(
    ("picture", "line"),
    [
        ("text", "text.png: not a JPEG, PNG or WebP image"),
        ("cut", "cut.png: damaged or truncated PNG"),
        ("empty", "empty.png: not a JPEG, PNG or WebP image (0 bytes)"),
        ("drawing", "drawing.gif: not a JPEG, PNG or WebP image"),
    ],
)
@pytest.mark.parametrize("kind", ["strings", "classes"])
def test_what_is_no_picture(vitjax, strings_run, classes_run, pictures, broken_pictures, picture, line, kind):
    run = {"strings": strings_run, "classes": classes_run}[kind]
    broken = broken_pictures[picture]
    _, alone, _ = vitjax("decode", run, pictures[0], "--json")
    code, out, err = vitjax("decode", run, broken, pictures[0], "--json")
    first, second = out.splitlines(keepends=True)
    assert json.loads(first)["source"] == broken and line in json.loads(first)["error"]
    assert json.loads(second)["source"] == json.loads(alone)["source"]
    assert code == 1
    (told,) = err.splitlines()
    assert told.startswith("vitjax decode: error: 1 of 2 images could not be read, first: ") and line in told
    _, out, _ = vitjax("decode", run, broken)
    assert out.startswith("error: ") and line in out


@pytest.mark.parametrize(
    ("run", "arguments", "line"),
    [
        ("strings_run", [], "give one of image paths, --text and --text-file"),
        ("strings_run", ["a.png", "--text", "b"], "give one of image paths, --text and --text-file"),
        ("strings_run", ["PICTURE", "nothing.png"], "nothing.png: no such file or folder"),
        ("strings_run", ["PICTURE", "*.nothing"], "*.nothing matches nothing"),
        ("strings_run", ["PICTURE", "--batch-size", "0"], "--batch-size is 0: expected at least 1"),
        ("strings_run", ["PICTURE", "--json", "--output", "x"], "--output writes JSON already"),
        ("strings_run", ["PICTURE", "--attention", "no/x.png"], "no/x.png: there is no folder no"),
        ("strings_run", ["PICTURE", "OTHER", "--attention", "x.png"], "one file for 2 images: give a folder"),
        ("strings_run", ["FOLDER", "--attention", "FOLDER"], "which is read: give a folder outside it"),
        ("strings_run", ["--text", "12"], "reads images, not text"),
        ("strings_run", ["PICTURE", "--num-beams", "0"], "num_beams=0: expected 1 or more"),
        (
            "strings_run",
            ["PICTURE", "--num-return-sequences", "2"],
            "num_return_sequences=2 is more than num_beams=1",
        ),
        ("strings_run", ["PICTURE", "--max-length", "1"], "max_length=1 leaves no room"),
        ("strings_run", ["PICTURE", "--max-length", "99"], "max_length 99 is beyond the 8 learned positions"),
        (
            "strings_run",
            ["PICTURE", "--length-penalty", "nan"],
            "length_penalty=nan: expected a finite number",
        ),
        ("words_run", ["PICTURE"], "this model reads text, not images: use --text"),
        (
            "words_run",
            ["--text", "hello", "--attention", "x.png"],
            "--attention draws on images; there are none",
        ),
        ("words_run", ["--text", "a", ""], "no empty text"),
        ("words_run", ["--text-file", "nothing.txt"], "No such file or directory: 'nothing.txt'"),
        ("classes_run", ["--text", "12"], "names classes of images; it reads no text"),
        ("classes_run", ["PICTURE", "--num-beams", "2"], "it has no use for --num-beams"),
    ],
)
def test_what_makes_no_sense(refusal, request, pictures, run, arguments, line):
    given = {"PICTURE": pictures[0], "OTHER": pictures[1], "FOLDER": str(Path(pictures[0]).parent)}
    arguments = [given.get(argument, argument) for argument in arguments]
    assert line in refusal("decode", request.getfixturevalue(run), *arguments)


@pytest.fixture
def many(pictures, tmp_path):
    """A folder of ten images, the fourth of which is damaged."""
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.open(pictures[0])
    for place in range(10):
        image.rotate(10 * place).save(folder / f"{place}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    return folder


SMALL = ("--batch-size", 4)


def test_output(vitjax, strings_run, many, tmp_path):
    output = tmp_path / "out.jsonl"
    code, out, err = vitjax("decode", strings_run, many, *SMALL, "--output", output)
    assert (code, out) == (1, f"{output}: 10 images\n")
    (line,) = err.splitlines()
    assert line.startswith(f"vitjax decode: error: 1 of 10 images could not be read, first: {many}/3.png: ")
    _, printed, _ = vitjax("decode", strings_run, many, *SMALL, "--json")
    assert output.read_text() == printed
    records = [json.loads(line) for line in printed.splitlines()]
    assert [record["source"] for record in records] == [f"{many}/{place}.png" for place in range(10)]
    assert ["error" in record for record in records] == [place == 3 for place in range(10)]
    # once more: nothing to do, and the same is said of what could not be read
    assert vitjax("decode", strings_run, many, *SMALL, "--output", output) == (
        1,
        f"{output}: 10 images, 10 of them from before\n",
        err,
    )
    assert output.read_text() == printed


def test_samples_are_the_sources_own(vitjax, strings_run, many, tmp_path):
    """Wherever in the list it comes, and however the list is cut into batches."""
    draw = ["--sample", 7, "--num-return-sequences", 2, "--json"]
    _, out, _ = vitjax("decode", strings_run, many, *draw)
    records = {record["source"]: record for record in map(json.loads, out.splitlines())}
    assert any(len({tuple(h["tokens"]) for h in record["hypotheses"]}) == 2 for record in records.values())
    last = sorted(records)[-1]
    assert (
        json.loads(vitjax("decode", strings_run, last, *draw).out)["hypotheses"][0]["tokens"]
        == (records[last]["hypotheses"][0]["tokens"])
    )
    results = tmp_path / "drawn.jsonl"
    assert vitjax("decode", strings_run, last, "--sample", 7, "--output", results).code == 0
    code, _, err = vitjax("decode", strings_run, last, "--sample", 8, "--output", results)
    assert code and "was made with seed=7, now it is 8" in err


def test_a_grown_folder(vitjax, strings_run, many, pictures, tmp_path):
    output = tmp_path / "out.jsonl"
    (many / "3.png").unlink()
    assert vitjax("decode", strings_run, many, *SMALL, "--output", output).code == 0
    before = output.read_text()
    shutil.copy(pictures[1], many / "1b.png")
    code, out, _ = vitjax("decode", strings_run, many / "*.png", *SMALL, "--output", output)
    assert (code, out) == (0, f"{output}: 10 images, 9 of them from before\n")
    (new,) = output.read_text().removeprefix(before).splitlines()
    assert json.loads(new)["source"] == f"{many}/1b.png"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--num-beams", 2], "was made with num_beams=1, now it is 2: go on with the same model and options"),
        (["--max-length", 5], "was made with max_length=8, now it is 5"),
        ("classes_run", "was made with model="),
    ],
)
def test_other_options_than_before(
    vitjax, refusal, request, strings_run, pictures, tmp_path, arguments, line
):
    output = tmp_path / "out.jsonl"
    assert vitjax("decode", strings_run, pictures[0], "--output", output).code == 0
    before = output.read_bytes()
    run, arguments = (
        (request.getfixturevalue(arguments), []) if isinstance(arguments, str) else (strings_run, arguments)
    )
    assert line in refusal("decode", run, pictures[1], "--output", output, *arguments)
    assert output.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_after_the_batch_in_hand(vitjax, monkeypatch, strings_run, many, tmp_path, number):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    (many / "3.png").unlink()
    vitjax("decode", strings_run, many, *SMALL, "--output", whole)
    records = Transcriber.records

    def interrupted(self, batch):
        if batch[0].source == f"{many}/5.png":
            signal.raise_signal(number)
        return records(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Transcriber, "records", interrupted)
        code, out, err = vitjax("decode", strings_run, many, *SMALL, "--output", output)
    assert (code, out) == (128 + number, "")
    assert err == f"stopped by {number.name} after 8 of 9 images; the same command goes on from there\n"
    assert whole.read_text().startswith(output.read_text()) and len(output.read_text().splitlines()) == 8
    assert vitjax("decode", strings_run, many, *SMALL, "--output", output).code == 0
    assert output.read_bytes() == whole.read_bytes()


KILLED = """
import os, signal, sys
from vitjax.cli import main

write, batches = os.write, []

def torn(descriptor, data):
    batches.append(data)
    if len(batches) == 6:
        write(descriptor, data[: len(data) * 5 // 8])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(descriptor, data)

os.write = torn
main(sys.argv[1:])
"""


def test_killed_in_the_middle_of_a_line(vitjax, strings_run, pictures, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    image = Image.open(pictures[0])
    for place in range(40):
        image.rotate(9 * place).save(folder / f"{place}.png")
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = ["decode", strings_run, folder, *SMALL, "--output"]
    assert vitjax(*arguments, whole).code == 0
    child = [sys.executable, "-c", KILLED, *map(str, arguments), str(output)]
    killed = subprocess.run(child, capture_output=True, timeout=240, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    torn = output.read_bytes()
    assert len(torn.splitlines()) > 20 and not torn.endswith(b"\n")
    code, out, err = vitjax(*arguments, output)
    done = torn.count(b"\n")
    assert (code, out, err) == (0, f"{output}: 40 images, {done} of them from before\n", "")
    assert output.read_bytes() == whole.read_bytes()
    sources = [json.loads(line)["source"] for line in output.read_text().splitlines()]
    assert sources == [f"{folder}/{place}.png" for place in range(40)]
