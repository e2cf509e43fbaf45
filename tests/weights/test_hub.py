import fnmatch
import importlib
import os
import shlex
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vitjax.weights.folder import open_tensors, write_tensors
from vitjax.weights.hub import local_path

SOME = ["config.json", "merges.txt", "source.spm", "spiece.model", "model.safetensors", "B_16.npz", "LICENSE"]
NO_IDS = [
    *[
        "",
        "@",
        "name",
        "./org/name",
        "../name",
        "/org/name",
        "~/name",
        "org/name/",
        "org//name",
        "a/b/c",
        "-org/name",
    ],
    *[
        "org/name@",
        "org/name@a b",
        "org/name@../x",
        "org/..",
        "org/na me",
        "org/name\n",
        "org\\name",
        "org/n\u0430me",
    ],
    *["https://huggingface.co/org/name", "hf://", "hf://name", "hf:///etc/passwd"],
]
NEVER = [
    "modeling.py",
    "pytorch_model.bin",
    "x.pkl",
    "x.pt",
    "tf_model.h5",
    "model.onnx",
    "sub/model.safetensors",
]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A huggingface_hub that notes what it was asked for and gives a folder."""
    asked = []
    (tmp_path / "fetched").mkdir()
    (tmp_path / "fetched" / "model.safetensors").touch()

    def snapshot_download(repository, **options):
        asked.append((repository, options))
        if isinstance(fake.result, Exception):
            raise fake.result
        return str(fake.result)

    fake = SimpleNamespace(snapshot_download=snapshot_download, asked=asked, result=tmp_path / "fetched")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return fake


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        ("google/vit-base-patch16-224", None),
        ("org/name@v1.0", "v1.0"),
        ("org/name@refs/pr/3", "refs/pr/3"),
        ("hf://org/name@main", "main"),
    ],
)
def test_an_id_is_fetched(hub, text, revision):
    assert local_path(text) == hub.result
    [(repository, options)] = hub.asked
    assert repository == text.removeprefix("hf://").split("@")[0]
    assert options["revision"] == revision
    assert options["local_files_only"] is False

    def fetched(name):  # as huggingface_hub decides it
        allowed, ignored = options["allow_patterns"], options["ignore_patterns"]
        return any(fnmatch.fnmatch(name, p) for p in allowed) and not any(
            fnmatch.fnmatch(name, p) for p in ignored
        )

    assert [name for name in SOME + NEVER if fetched(name)] == SOME


def test_a_repository_of_pickles_alone_is_refused_with_a_command(hub):
    for file in hub.result.iterdir():
        file.unlink()
    with pytest.raises(
        ValueError, match="^org/name has no safetensors or .npz, and pickles are not"
    ) as refusal:
        local_path("org/name@main")
    fetch, convert = str(refusal.value).split(": ", 2)[2].split(" && ")
    assert fetch == "hf download org/name --local-dir name"
    python, option, code, *folders = shlex.split(convert)
    assert (python, option, folders) == ("python", "-c", ["name", "name"])
    compile(code, "command", "exec")


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_looks_into_the_cache_alone(hub, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    local_path("org/name")
    assert hub.asked[0][1]["local_files_only"] is True
    hub.result = FileNotFoundError("Cannot find\nan appropriate cached snapshot folder")
    with pytest.raises(
        ValueError, match="^org/name is not in the cache and HF_HUB_OFFLINE is set: Cannot find an"
    ):
        local_path("org/name")


def test_an_error_of_the_hub_is_one_line(hub):
    hub.result = RuntimeError("404 Client Error\n\nRepository Not Found")
    with pytest.raises(
        ValueError, match="^org/name did not come from the hub: 404 Client Error Repository Not Found$"
    ):
        local_path("org/name")


@pytest.mark.parametrize("text", NO_IDS)
def test_what_is_no_id_never_goes_to_the_network(hub, text):
    with pytest.raises(FileNotFoundError, match="is not there, nor is it a hub id: expected org/name"):
        local_path(text)
    with pytest.raises(FileNotFoundError):
        local_path(Path("org/name"))
    assert not hub.asked


def test_a_slip_in_a_path_never_goes_to_the_network(hub):
    Path("runs/demo").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match="runs/dmeo is not there, though runs is; .* write hf://runs/dmeo"
    ):
        local_path("runs/dmeo")
    assert not hub.asked
    local_path("hf://runs/dmeo")
    assert hub.asked


def test_a_path_that_is_there_wins(hub, no_network):
    Path("google/vit").mkdir(parents=True)
    write_tensors("google/vit", {"x": np.ones(2)})
    Path("link").symlink_to("nowhere")
    for text in ("google/vit", "google", str(Path("google/vit").absolute()), Path("google/vit"), "link"):
        assert local_path(text) == Path(text)
    np.testing.assert_array_equal(open_tensors(local_path("google/vit")).read("x"), np.ones(2))
    assert not hub.asked


def test_without_huggingface_hub_the_error_teaches(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"^org/name is not a path here, .*: pip install 'vitjax\[hub\]'"):
        local_path("org/name")


def test_the_real_one_finds_its_cache_without_a_network(monkeypatch, tmp_path, no_network):
    """The layout is the hub's own: a snapshot of links into a folder of blobs."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="^org/name is not in the cache and HF_HUB_OFFLINE is set"):
        local_path("org/name")
    commit = "0" * 40
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    write_tensors(repository / "blobs", {"x": np.arange(3)})
    os.symlink("../../blobs/model.safetensors", snapshot / "model.safetensors")
    folder = local_path("org/name")
    assert folder == snapshot
    np.testing.assert_array_equal(open_tensors(folder).read("x"), np.arange(3))
