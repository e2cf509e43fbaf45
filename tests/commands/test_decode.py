import json

import numpy as np
import pytest
from PIL import Image

from vitjax.api import load
from vitjax.data.images import read_image


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
    assert [record["source"] for record in records] == [name for name in pictures[:2] for _ in range(3)]
    for rows in (records[:3], records[3:]):
        scores = [record["score"] for record in rows]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(record["tokens"]) for record in rows}) == 3
    tokenizer = load(strings_run).tokenizer
    for record in records:
        assert record["text"] == tokenizer.decode(record["tokens"])
        assert record["tokens"][0] == 1 and len(record["tokens"]) <= 5


def test_attention(vitjax, strings_run, pictures, tmp_path):
    where = tmp_path / "where.png"
    code, _, err = vitjax("decode", strings_run, *pictures[:2], "--attention", where)
    assert (code, err) == (0, "")
    with Image.open(where) as drawn:
        drawn.load()
        assert min(drawn.size) > 50


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


def test_classes(vitjax, classes_run, pictures):
    code, out, err = vitjax("decode", classes_run, pictures[2], pictures[0], "--json")
    assert (code, err) == (0, "")
    first, second = map(json.loads, out.splitlines())
    model = load(classes_run)
    logits = np.asarray(model.logits(model.preprocess(read_image(pictures[2]))[None]))
    assert first["label"] == int(logits[0].argmax())
    assert -np.log(10) <= first["score"] <= 0
    assert second["source"] == pictures[0]
    code, out, _ = vitjax("decode", classes_run, pictures[2])
    assert out == f"{pictures[2]}: class {first['label']}  (log-probability {first['score']:.4f})\n"


@pytest.mark.parametrize(
    ("picture", "line"),
    [
        ("text", "text.png: not a JPEG, PNG or WebP image"),
        ("cut", "cut.png: damaged or truncated PNG"),
        ("empty", "empty.png: not a JPEG, PNG or WebP image (0 bytes)"),
        ("drawing", "drawing.gif: not a JPEG, PNG or WebP image"),
        ("folder", "folder.png: a directory"),
        ("nothing", "nothing.png: no such file"),
    ],
)
@pytest.mark.parametrize("kind", ["strings", "classes"])
def test_what_is_no_picture(
    refusal, strings_run, classes_run, pictures, broken_pictures, picture, line, kind
):
    run = {"strings": strings_run, "classes": classes_run}[kind]
    assert line in refusal("decode", run, pictures[0], broken_pictures[picture])


@pytest.mark.parametrize(
    ("run", "arguments", "line"),
    [
        ("strings_run", [], "give either image files or --text"),
        ("strings_run", ["a.png", "--text", "b"], "give either image files or --text"),
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
        (
            "words_run",
            ["--text", "H\u00e9"],
            "has the character 'H', which is not in the tokenizer's alphabet",
        ),
        ("classes_run", ["--text", "12"], "names classes of images; it reads no text"),
        ("classes_run", ["PICTURE", "--num-beams", "2"], "it has no use for --num-beams"),
        ("classes_run", ["PICTURE", "--attention", "x.png"], "it has no use for --attention"),
    ],
)
def test_what_makes_no_sense(refusal, request, pictures, run, arguments, line):
    arguments = [pictures[0] if argument == "PICTURE" else argument for argument in arguments]
    assert line in refusal("decode", request.getfixturevalue(run), *arguments)


def test_a_picture_that_cannot_be_written(vitjax, strings_run, pictures, tmp_path):
    code, _, err = vitjax("decode", strings_run, pictures[0], "--attention", tmp_path / "no" / "where.png")
    assert code == 1
    assert len(err.splitlines()) == 1 and "where.png" in err
