import pytest

from vitjax.training.recipe import load_config


def test_files_that_are_no_configs(tmp_path):
    with pytest.raises(ValueError, match="no config file .*nothing.py"):
        load_config(tmp_path / "nothing.py")
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="no function get_config"):
        load_config(tmp_path / "a.py")
    with pytest.raises(ValueError, match=r"there are .*a\.py"):
        load_config(tmp_path / "b.py")
    (tmp_path / "c.py").write_text("def get_config():\n    return 3\n")
    with pytest.raises(ValueError, match="returned int"):
        load_config(tmp_path / "c.py")
    (tmp_path / "d.txt").write_text("")
    with pytest.raises(ValueError, match="not a Python file"):
        load_config(tmp_path / "d.txt")
