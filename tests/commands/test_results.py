import json
import os
import resource

import pytest

from vitjax.commands.results import ResultsFile, as_json, as_text

SETTINGS = {"model": "abc", "num_beams": 2, "stops": (1, 2)}
DEFAULTS = {"num_beams": 1, "temperature": 1.0}


def record(number: int) -> dict:
    return {"source": f"{number}.png", "text": "x" * number}


def write(path, *records, settings=SETTINGS) -> None:
    with ResultsFile(path) as results:
        results.resume(settings, DEFAULTS, {"vitjax": "1"})
        results.append(records)


@pytest.fixture
def file(tmp_path):
    """Two good results and an error."""
    write(tmp_path / "out.jsonl", record(0), {"source": "1.png", "error": "torn"}, record(2))
    return tmp_path / "out.jsonl"


def resumed(path, settings=SETTINGS):
    with ResultsFile(path) as results:
        results.resume(settings, DEFAULTS, {"vitjax": "2"})
        return results


def test_every_line_is_a_result(file):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [record(0), {"source": "1.png", "error": "torn"}, record(2)]
    beside = json.loads((file.parent / "out.jsonl.settings.json").read_text())
    assert beside == {"vitjax": "1", "settings": {**SETTINGS, "stops": [1, 2]}}
    assert sorted(path.name for path in file.parent.iterdir()) == ["out.jsonl", "out.jsonl.settings.json"]


def test_goes_on(file):
    results = resumed(file)
    assert results.done == {"0.png", "1.png", "2.png"}
    assert results.errors == ["torn"]
    write(file, record(3))
    assert resumed(file).done == {"0.png", "1.png", "2.png", "3.png"}


@pytest.mark.parametrize("kept", ["all", "none"])
def test_half_a_line_is_cut_off(file, kept):
    whole = file.read_bytes() if kept == "all" else b""
    for rest in (b"{", b'{"source": "9.png"}', b"\0\0\0"):
        file.write_bytes(whole + rest)
        assert len(resumed(file).done) == (3 if whole else 0)
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"num_beams": 3},
            "out.jsonl was made with num_beams=2, now it is 3: go on with the same model and options",
        ),
        (
            {"temperature": 0.5},
            "was made with temperature=1.0, now it is 0.5",
        ),  # the file is older than the setting
        ({"stops": (1,)}, r"was made with stops=\[1, 2\], now it is \[1\]"),
    ],
)
def test_other_settings(file, change, line):
    before = file.read_bytes()
    with pytest.raises(ValueError, match=line):
        resumed(file, {**SETTINGS, **change})
    assert file.read_bytes() == before


def test_a_setting_older_than_the_file(file):
    resumed(file, {"model": "abc", "temperature": 1.0})


@pytest.mark.parametrize("line", [b"\0\0\0\0\n", b"[1]\n", b'{"text": "x"}\n', b"prose\n", b"\n"])
def test_what_is_no_result_is_not_touched(file, line):
    contents = line + file.read_bytes()
    file.write_bytes(contents)
    with pytest.raises(ValueError, match="out.jsonl, line 1: not a result of vitjax decode; mend or delete"):
        resumed(file)
    assert file.read_bytes() == contents


@pytest.mark.parametrize("settings", [None, b"{", b"[]", b"{}"])
def test_results_of_unknown_origin(file, settings):
    beside = file.parent / "out.jsonl.settings.json"
    beside.unlink()
    if settings is not None:
        beside.write_bytes(settings)
    with pytest.raises(ValueError, match="cannot be gone on with: out.jsonl.settings.json beside it"):
        resumed(file)


def test_one_writer(file):
    with ResultsFile(file), pytest.raises(ValueError, match="out.jsonl is being written by another process"):
        ResultsFile(file)
    resumed(file)


def test_what_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is not a regular file"):
        ResultsFile(tmp_path)
    with pytest.raises(ValueError, match="/dev/null is not a regular file"):
        ResultsFile("/dev/null")
    with pytest.raises(FileNotFoundError, match="no/out.jsonl"):
        ResultsFile(tmp_path / "no" / "out.jsonl")


def test_a_full_disk_keeps_whole_batches(file):
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(OSError, match=r"out.jsonl: File too large; what was written before is kept"):
            write(file, record(30), record(31), record(32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    write(file, record(30))
    assert len(resumed(file).done) == 4


def test_nothing_is_left_where_nothing_came_of_it(tmp_path):
    with pytest.raises(RuntimeError), ResultsFile(tmp_path / "out.jsonl"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.jsonl").touch()
    with ResultsFile(tmp_path / "out.jsonl"):
        pass
    assert (tmp_path / "out.jsonl").exists()


def test_any_name_survives(tmp_path):
    names = [
        os.fsdecode(b"a\xff.png"),
        "\u00e9\u4e2d \U0001f600.png",
        'quote".png',
        "two\nlines.png",
        "\u2028.png",
    ]
    write(tmp_path / "out.jsonl", *({"source": name} for name in names))
    assert resumed(tmp_path / "out.jsonl").done == set(names)
    assert "\u4e2d" in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_for_people():
    one = {"text": "12", "score": -0.25, "tokens": [1, 4, 2]}
    line = "a.png: 12  (score -0.2500, tokens [1, 4, 2])"
    assert as_text({"source": "a.png", **one}) == line
    assert as_text({"source": "a.png", "hypotheses": [one, one]}) == f"{line}\n{line}"
    assert (
        as_text({"source": "a.png", "label": 3, "probability": 0.5}) == "a.png: class 3  (probability 0.5000)"
    )
    assert as_text({"source": "a.png", "error": "a.png: torn"}) == "error: a.png: torn"
    assert as_json({"source": "\udcff"}) == '{"source": "\\udcff"}'
