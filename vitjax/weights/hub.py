"""Checkpoints by hub id, such as "google/vit-base-patch16-224" or "org/name@revision".

The only module that may reach the network, and only through `huggingface_hub`: for what can only be an id, never with
HF_HUB_OFFLINE=1 (then what was fetched before is found in the cache), and for data alone, neither code nor pickles. A
path that is there is never an id, nor is one into a folder that is there: a slip of the keyboard sends no name away.
"""

import os
import re
from pathlib import Path

from vitjax.weights.refused import hub_refusal
from vitjax.weights.stored import one_line

SCHEME = "hf://"
"""In front of an id where a folder has the name of the organisation."""
FILES = ["*.json", "*.txt", "*.model", "*.spm", "*.safetensors", "*.npz", "LICENSE*"]
"""What is fetched of a repository, from its top folder alone."""

_ID = re.compile(r"(\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(\w[\w./-]{0,255}))?", re.ASCII)


def local_path(source: str | Path) -> Path:
    """Where the checkpoint is: `source` itself if it is a path, else the folder that huggingface_hub fetched.

    Raises:
        FileNotFoundError: neither a path that is there nor an id; or offline and never fetched.
        ValueError: huggingface_hub is not installed, or the hub has it not, or only as a pickle; one line.
    """
    text = str(source)
    wanted = text.removeprefix(SCHEME)
    if wanted == text and os.path.lexists(text):
        return Path(text)
    match = _ID.fullmatch(wanted) if isinstance(source, str) else None
    if match is None or ".." in wanted:
        raise FileNotFoundError(
            f"{text} is not there, nor is it a hub id: expected org/name or org/name@revision"
        )
    organisation = Path(wanted.split("/", 1)[0])
    if wanted == text and organisation.exists():
        raise FileNotFoundError(
            f"{text} is not there, though {organisation} is; if you mean the hub, write {SCHEME}{text}"
        )
    return _fetch(*match.groups())


def _fetch(repository: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"{repository} is not a path here, and fetching it from the hub needs huggingface_hub: "
            "pip install 'vitjax[hub]', or give the path of a folder that you have"
        ) from None
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=FILES,
            ignore_patterns=["*/*"],
            local_files_only=offline,
        )
    except Exception as error:  # its errors and its HTTP client's have no base in common
        where = "is not in the cache and HF_HUB_OFFLINE is set" if offline else "did not come from the hub"
        raise ValueError(f"{repository} {where}: {one_line(error)}") from None
    if not any(name.endswith((".safetensors", ".npz")) for name in os.listdir(folder)):
        raise ValueError(hub_refusal(repository, repository.split("/")[1]))
    return Path(folder)
