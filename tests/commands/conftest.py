"""Short runs of each kind of model, made once a test process, and the command line inside it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from PIL import Image

from tests.prepared import small_datasets, train_alone, with_data
from tests.training.runs import classifier, transcriber, translator
from vitjax.cli import main
from vitjax.data.resize import to_pil
from vitjax.data.sources import build_source
from vitjax.decoding.config import GenerationConfig

WORDS = GenerationConfig(max_length=12, decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with small_datasets(tmp_path_factory.mktemp("datasets")) as folder:
        yield folder


@pytest.fixture(scope="session")
def classes_run(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits to classes, averaged, two checkpoints."""
    directory = tmp_path_factory.mktemp("classes")
    train_alone(with_data(classifier(ema_decay=0.5, freeze=("positions/.*",)), data_dir), directory)
    return directory


@pytest.fixture(scope="session")
def strings_run(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of digit strings to text."""
    directory = tmp_path_factory.mktemp("strings")
    train_alone(with_data(transcriber(), data_dir), directory)
    return directory


@pytest.fixture(scope="session")
def words_run(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text to text."""
    directory = tmp_path_factory.mktemp("words")
    train_alone(dataclasses.replace(with_data(translator(), data_dir), generation=WORDS), directory)
    return directory


@pytest.fixture(scope="session")
def pictures(data_dir: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two images of digit strings and one of a digit, as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    names = []
    for family, place in ((transcriber, 0), (transcriber, 1), (classifier, 0)):
        source = build_source(with_data(family(), data_dir).data, "test")
        names.append(str(folder / f"{family.__name__}{place}.png"))
        to_pil(source[place]["image"]).save(names[-1])
    return names


@pytest.fixture
def broken_pictures(tmp_path: Path, pictures: list[str]) -> dict[str, str]:
    """What is no picture, in several ways."""
    whole = Path(pictures[0]).read_bytes()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("L", (4, 4)).save(tmp_path / "drawing.gif")
    (tmp_path / "folder.png").mkdir()
    return {name.stem: str(name) for name in tmp_path.iterdir()} | {"nothing": str(tmp_path / "nothing.png")}


class Outcome(NamedTuple):
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def vitjax(capsys: pytest.CaptureFixture[str]) -> Run:
    """The `vitjax` program inside this process."""
    jax.devices()  # a plan would simulate as many as it needs in a process that has none yet

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        code = ended.value.code
        if isinstance(code, str):  # Python prints it and exits with 1
            return Outcome(1, out, err + code + "\n")
        return Outcome(code or 0, out, err)

    return run


@pytest.fixture
def refusal(vitjax: Run) -> Callable[..., str]:
    """The one line of a command that must fail."""

    def refuse(*arguments: object) -> str:
        code, out, err = vitjax(*arguments)
        assert code == 1, out
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(f"vitjax {arguments[0]}: error: ")
        return line.partition("error: ")[2]

    return refuse
