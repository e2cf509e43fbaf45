import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vitjax

ROOT = Path(__file__).parents[1]
CORE = ("nn", "models", "decoding")

# Names the importing module, so that flax may still import what flax itself depends on.
CORE_IMPORTS = """
import builtins, importlib, pkgutil, sys

ALLOWED = {*sys.stdlib_module_names, "jax", "jaxlib", "flax", "numpy", "jaxtyping", "vitjax"}
original = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if level == 0 and importer.split(".")[0] == "vitjax" and name.split(".")[0] not in ALLOWED:
        raise ImportError(f"{importer} imports {name}")
    return original(name, globals, locals, fromlist, level)

builtins.__import__ = guarded
for part in sys.argv[1:]:
    package = importlib.import_module(f"vitjax.{part}")
    for module in pkgutil.walk_packages(package.__path__, f"vitjax.{part}."):
        importlib.import_module(module.name)
        print(module.name)
"""


def child(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_is_light() -> None:
    """Nothing heavy comes along: this is what keeps `import vitjax` far below two seconds."""
    heavy = {
        *("flax", "grain", "jax", "matplotlib", "numpy", "optax", "orbax", "PIL", "pydantic", "rich"),
        *("sklearn", "tensorboardX", "tensorflow_datasets", "tyro"),
    }
    loaded = child("import sys, vitjax; print(*sys.modules)").split()
    assert "vitjax" in loaded
    assert heavy & set(loaded) == set()


def test_core_needs_only_jax_flax_numpy_jaxtyping() -> None:
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for part in CORE
        for path in (ROOT / "vitjax" / part).rglob("*.py")
        if path.name != "__init__.py"
    }
    imported = set(child(CORE_IMPORTS, *CORE).split())
    assert expected and expected <= imported


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'vitjax' has no attribute 'lode'"):
        _ = vitjax.lode


@pytest.mark.parametrize("name", vitjax.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(vitjax, name) is not None
    assert name in dir(vitjax)


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
    return [Requirement(line) for line in [*lines, "torch", "transformers"]]  # the last two for `make bench`


def pins(python_version: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==([\w.]+)(?: ; (.+))?", line)
        assert match, f"not a plain pin: {line!r}"
        name, version, marker = match.groups()
        if marker is None or Marker(marker).evaluate({"python_version": python_version}):
            assert name not in found, f"{name} is pinned twice for Python {python_version}"
            found[name] = version
    return found


@pytest.mark.parametrize("python_version", ["3.11", "3.12", "3.13"])
def test_every_dependency_is_pinned(python_version: str) -> None:
    pinned = pins(python_version)
    for requirement in requirements():
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement
