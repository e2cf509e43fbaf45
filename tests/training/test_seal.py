import os
import random
import shutil
import subprocess

import pytest

from vitjax.training.seal import SEAL, Damaged, is_sealed, seal, verify


@pytest.fixture
def sealed(tmp_path):
    directory = tmp_path / "step"
    (directory / "arrays" / "d").mkdir(parents=True)
    generator = random.Random(0)
    for name, size in (
        ("metadata.json", 300),
        ("arrays/manifest", 1),
        ("arrays/d/a", 50_000),
        ("arrays/d/empty", 0),
    ):
        (directory / name).write_bytes(generator.randbytes(size))
    seal(directory, "step 7")
    return directory


def test_what_was_sealed_verifies(sealed):
    assert is_sealed(sealed)
    verify(sealed, "step 7")


def test_every_flipped_bit_is_noticed(sealed):
    """The seal's own bytes included; every byte of it, and random ones of the rest."""
    generator = random.Random(1)
    files = [path for path in sealed.rglob("*") if path.is_file() and path.stat().st_size]
    places = [(sealed / SEAL, offset) for offset in range((sealed / SEAL).stat().st_size)]
    places += [(path, generator.randrange(path.stat().st_size)) for path in files for _ in range(40)]
    for path, offset in places:
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[offset] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(Damaged) as damage:
            verify(sealed, "step 7")
        assert damage.value.file == path.relative_to(sealed).as_posix()
        path.write_bytes(content)
    verify(sealed, "step 7")


def test_every_shorter_or_longer_file_is_noticed(sealed):
    for path in [path for path in sealed.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for damaged in {content[:-1], content[: len(content) // 2], b"", content + b"\0"} - {content}:
            path.write_bytes(damaged)
            with pytest.raises(Damaged, match=path.name):
                verify(sealed, "step 7")
        path.write_bytes(content)


def test_every_missing_file_is_noticed(sealed):
    for path in [path for path in sealed.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(Damaged, match="missing") as damage:
            verify(sealed, "step 7")
        assert damage.value.file == path.relative_to(sealed).as_posix()
        path.write_bytes(content)


def test_files_that_trade_places_are_noticed(sealed):
    (sealed / "arrays/d/a").rename(sealed / "swap")
    (sealed / "metadata.json").rename(sealed / "arrays/d/a")
    (sealed / "swap").rename(sealed / "metadata.json")
    with pytest.raises(Damaged):
        verify(sealed, "step 7")


def test_a_copy_under_another_name_is_noticed(sealed):
    with pytest.raises(Damaged, match="seal of 'step 7', expected 'step 8'"):
        verify(sealed, "step 8")


def test_a_link_in_place_of_a_file_is_noticed(sealed, tmp_path):
    """It may point at the same bytes today; nobody sealed what it points at tomorrow."""
    shutil.move(sealed / "arrays/d/a", tmp_path / "elsewhere")
    (sealed / "arrays/d/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match="not a plain file"):
        verify(sealed, "step 7")


def test_a_part_can_be_verified_alone(sealed):
    (sealed / "arrays/d/a").write_bytes(b"damaged")
    verify(sealed, "step 7", only=["metadata.json"])
    with pytest.raises(Damaged, match=r"arrays/d/a"):
        verify(sealed, "step 7", only=["metadata.json", "arrays/d/a"])
    with pytest.raises(Damaged, match="not under the seal"):
        verify(sealed, "step 7", only=["other"])


def test_a_file_with_a_line_break_in_its_name_is_not_sealed(tmp_path):
    (tmp_path / "a\nb").write_text("x")
    with pytest.raises(ValueError, match="plain names"):
        seal(tmp_path, "step 1")
    assert not is_sealed(tmp_path)


def test_the_manifest_comes_last_and_after_every_fsync(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("x")
    events = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda d: (events.append(os.readlink(f"/proc/self/fd/{d}")), fsync(d)))
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b)))
    seal(tmp_path, "step 1")
    root = str(tmp_path)
    assert events == [f"{root}/d/a", f"{root}/d", root, f"{root}/{SEAL}.writing", "rename", root]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_the_seal(sealed):
    check = ["sha256sum", "--check", "--strict", "--quiet", SEAL]
    assert subprocess.run(check, cwd=sealed).returncode == 0
    (sealed / "arrays/d/a").write_bytes(b"damaged")
    assert subprocess.run(check, cwd=sealed, capture_output=True).returncode == 1
