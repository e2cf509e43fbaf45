import os

import pytest

from vitjax.commands.sources import find_images, natural_order, read_lines


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """page1.png page2.JPG page10.webp notes.txt .hidden.png b/scan.jpeg b/.cache/small.png"""
    monkeypatch.chdir(tmp_path)
    for name in (
        "page10.webp page2.JPG page1.png notes.txt .hidden.png b/scan.jpeg b/.cache/small.png a.png/inner.png"
    ).split():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


IN_ORDER = ["in/a.png/inner.png", "in/b/scan.jpeg", "in/page1.png", "in/page2.JPG", "in/page10.webp"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["in"], IN_ORDER),
        (["in/"], IN_ORDER),
        (["in/**"], IN_ORDER),
        (["i?"], IN_ORDER),  # as the shell would give it: a folder
        (["in/page*"], IN_ORDER[2:]),
        (["in/**/*.jpeg"], ["in/b/scan.jpeg"]),
        (["in/page[12].*"], IN_ORDER[2:4]),
        (["in/page10.webp", "in/page1.png"], ["in/page10.webp", "in/page1.png"]),  # files as they are given
        (["in/notes.txt", "in/.hidden.png"], ["in/notes.txt", "in/.hidden.png"]),
        (["in/page2.JPG", "in", "./in/page1.png", "in/b/../b"], ["in/page2.JPG", *IN_ORDER[:3], IN_ORDER[4]]),
    ],
)
def test_what_arguments_name(folder, arguments, names):
    assert find_images(arguments) == names


def test_an_absolute_path_is_the_same_file(folder):
    assert find_images(["in/page1.png", str(folder / "in" / "page1.png")]) == ["in/page1.png"]


def test_a_file_named_like_a_pattern(folder):
    (folder / "in" / "page[1].png").touch()
    assert find_images(["in/page[1].png"]) == ["in/page[1].png"]


def test_bytes_that_are_no_text_in_a_name(folder):
    (folder / os.fsdecode(b"empty/\xff.png")).touch()
    assert find_images(["empty"]) == [os.fsdecode(b"empty/\xff.png")]


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("empty", "empty holds no image: expected files that end in .jpg, .jpeg, .png, .webp"),
        ("empty/*", "empty/* matches nothing: expected files that end in "),
        ("in/*.txt", "in/*.txt matches 1 files and folders with no image"),
    ],
)
def test_what_names_nothing(folder, argument, line):
    with pytest.raises(ValueError) as error:
        find_images(["in", argument])
    assert str(error.value).startswith(line)


def test_numbers_by_their_value():
    names = ["b", "a10/x", "a9/x", "a/2", "a/10", "a/02", "a", "1", "x01", "x1", "x²"]
    assert sorted(names, key=natural_order) == [
        "1",
        "a",
        "a/02",
        "a/2",
        "a/10",
        "a9/x",
        "a10/x",
        "b",
        "x01",
        "x1",
        "x²",
    ]


def test_lines(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_bytes("\ufeffzwei\r\neins\n\nzwei\nça\u2028va".encode())
    assert read_lines(str(file)) == ["zwei", "eins", "ça\u2028va"]
    file.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match="lines.txt has no text: expected one source a line"):
        read_lines(str(file))
    file.write_bytes(b"good\n\xff")
    with pytest.raises(ValueError, match=r"lines.txt: not UTF-8 text \(byte 5\)"):
        read_lines(str(file))
    with pytest.raises(FileNotFoundError):
        read_lines(str(tmp_path / "nothing"))
