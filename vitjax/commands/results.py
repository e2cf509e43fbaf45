"""Where `vitjax decode` puts its results: lines on standard output, or a JSONL file that survives a kill."""

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Results:
    """What is known of the results so far.

    Attributes:
      done: sources that have a record.
      errors: what the records of unreadable sources say.
    """

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.errors: list[str] = []

    def append(self, records: Sequence[Record]) -> None:
        """Count the records of a batch."""
        self.done.update(record["source"] for record in records)
        self.errors += [str(record["error"]) for record in records if "error" in record]


class Printer(Results):
    """Results on standard output, one after the other."""

    def __init__(self, form: Callable[[Record], str]):
        super().__init__()
        self._form = form

    def append(self, records: Sequence[Record]) -> None:
        """Print the records of a batch."""
        for record in records:
            print(_encodable(self._form(record)))
        sys.stdout.flush()
        super().append(records)


class ResultsFile(Results):
    """A JSONL file with one object a source, to which whole batches are appended; use it as a context manager.

    What the results were made with lies beside it in `<name>.settings.json`: so each line of the file is a result, and
    pandas, jq or `wc -l` take it as it is.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens the file, or makes it.

        Raises:
          ValueError: it is not a regular file, or another process is writing it.
          OSError: it cannot be opened for writing.
        """
        super().__init__()
        self.path = Path(path)
        self.settings_path = self.path.with_name(f"{self.path.name}.settings.json")
        self._new = not self.path.exists()
        if not self._new and not self.path.is_file():
            raise ValueError(f"{self.path} is not a regular file: expected one to write to, or to go on with")
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise ValueError(
                f"{self.path} is being written by another process: wait for it, or choose another file"
            ) from None
        except OSError:
            pass  # a file system without locks

    def resume(
        self, settings: Mapping[str, Any], defaults: Mapping[str, Any], about: Mapping[str, Any]
    ) -> None:
        """Read what is done and cut off a half-written last line; an empty file gets its settings noted.

        Args:
          settings: what the results depend on, as JSON can hold it.
          defaults: values of settings that a file of an older version does not name.
          about: what is noted and may change.

        Raises:
          ValueError: the results were made with other settings, or the file holds something else.
          OSError: the file cannot be read, or the settings not be written.
        """
        contents = self.path.read_bytes()
        *lines, rest = contents.split(b"\n")
        records = [_parsed(line) for line in lines]
        for number, record in enumerate(records, start=1):
            if not isinstance(record.get("source"), str):
                raise ValueError(
                    f"{self.path}, line {number}: not a result of vitjax decode; mend or delete the line, or give "
                    "another --output"
                )
        super().append(records)
        if contents:
            self._require_same(settings, defaults)
        else:
            self._note({**about, "settings": settings})
        if rest:
            os.ftruncate(self._descriptor, len(contents) - len(rest))

    def append(self, records: Sequence[Record]) -> None:
        """Write the records of a batch and return when they are on the disk.

        Raises:
          OSError: the disk did not take them all; the file ends with the batch before.
        """
        size = os.fstat(self._descriptor).st_size
        data = memoryview("".join(f"{as_json(record)}\n" for record in records).encode())
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            reason = os.strerror(error.errno or errno.EIO)
            raise OSError(
                f"{self.path}: {reason}; what was written before is kept, and the same command goes on from there"
            ) from error
        super().append(records)

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, *_: object) -> None:
        if self._new and not self.settings_path.exists():  # nothing came of it
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _require_same(self, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        noted = _parsed(self.settings_path.read_bytes()) if self.settings_path.exists() else {}
        before = noted.get("settings")
        if not isinstance(before, dict):
            raise ValueError(
                f"{self.path} cannot be gone on with: {self.settings_path.name} beside it, which says how it was made, "
                "is missing or damaged; give another --output"
            )
        for name, value in settings.items():
            value = json.loads(json.dumps(value))
            was = before.get(name, defaults.get(name, value))
            if was != value:
                raise ValueError(
                    f"{self.path} was made with {name}={was}, now it is {value}: go on with the same model and "
                    "options, or give another --output"
                )

    def _note(self, document: Mapping[str, Any]) -> None:
        scratch = self.settings_path.with_name(f"{self.settings_path.name}.partial")
        with scratch.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self.settings_path)
        directory = os.open(self.path.parent, os.O_RDONLY)
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(directory)
        os.close(directory)


def as_json(record: Record) -> str:
    """A record as a line of JSON, readable in any language."""
    return _encodable(json.dumps(record, ensure_ascii=False))


def as_text(record: Record) -> str:
    """A record as lines for people."""
    if "error" in record:
        return f"error: {record['error']}"
    if "label" in record:
        name = f" {record['name']}" if "name" in record else ""
        return f"{record['source']}: class {record['label']}{name}  (probability {record['probability']:.4f})"
    return "\n".join(
        f"{record['source']}: {one['text']}  (score {one['score']:.4f}, tokens {one['tokens']})"
        for one in record.get("hypotheses", [record])
    )


def _encodable(text: str) -> str:
    # What is no character (a byte in a file's name) becomes the escape that JSON has for it.
    return text.encode("utf-8", "backslashreplace").decode()


def _parsed(text: bytes) -> Record:
    """The JSON object, empty if it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
