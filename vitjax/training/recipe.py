"""The files in `configs/`: Python with a function `get_config` that returns a run's config.

`get_config()` describes a model of its own. `get_config(init)` describes one that starts from a checkpoint and is given
what that says of itself: a `vitjax.training.pretrained.Pretrained`.
"""

import importlib.util
import inspect
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitjax.training.config import Config
from vitjax.training.pretrained import Pretrained


def load_config(path: str | Path, init: Pretrained | None = None) -> Config:
    """Run `get_config` of a Python file.

    Args:
      init: the checkpoint to start from; a config with a model of its own takes all parameters that it does not call
        new from there.

    Raises ValueError with one line if there is no such file, no such function, it fails, or returns something else.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ValueError(f"no config file {path}" + (f"; there are {', '.join(near)}" if near else ""))
    spec = importlib.util.spec_from_file_location(f"vitjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file: a config is a .py file with get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        get_config: Any = getattr(module, "get_config", None)
        config = _call(get_config, init, path) if callable(get_config) else None
    except _NeedsInit as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(f"{_place(error, path)}: {type(error).__name__}: {error}") from error
    if not callable(get_config):
        raise ValueError(
            f"{path} has no function get_config(): it must return a vitjax.training.config.Config"
        )
    if not isinstance(config, Config):
        raise ValueError(f"{path}: get_config() returned {type(config).__name__}, expected a Config")
    if init is not None and config.init.checkpoint != init.path:
        config = replace(config, init=replace(config.init, checkpoint=init.path))
    return config


class _NeedsInit(Exception):
    pass


def _call(get_config: Any, init: Pretrained | None, path: Path) -> Any:
    if "init" not in inspect.signature(get_config).parameters:
        return get_config()
    if init is None:
        raise _NeedsInit(
            f"{path} starts from a checkpoint: say which by --init DIR, or which run to --resume by --directory"
        )
    return get_config(init)


def _place(error: Exception, path: Path) -> str:
    """`file:line` of the config file that an error came out of."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)
