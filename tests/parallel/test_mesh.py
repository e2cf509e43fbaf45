import re

import hypothesis.strategies as st
import jax
import pytest
from hypothesis import given
from jax.sharding import AxisType

from vitjax.parallel.mesh import MeshConfig, make_mesh


def test_parse_names_axes_in_any_order_and_leaves_the_rest_at_their_default():
    assert MeshConfig.parse("fsdp=2, data=4") == MeshConfig(data=4, fsdp=2, tensor=1)
    assert MeshConfig.parse("tensor=4") == MeshConfig(data=-1, fsdp=1, beam=1, tensor=4)
    assert MeshConfig.parse("") == MeshConfig()


@given(
    st.builds(
        MeshConfig,
        data=st.integers(1, 64),
        fsdp=st.integers(1, 64) | st.just(-1),
        beam=st.integers(1, 8),
        tensor=st.integers(1, 8),
    )
)
def test_parse_reads_what_str_writes(config):
    assert MeshConfig.parse(str(config)) == config


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("dta=2", "no axis 'dta'; did you mean 'data'"),
        ("tensr=2", "did you mean 'tensor'"),
        ("model=2", "Axes: data, fsdp, beam, tensor"),
        ("data=x", "data='x' is not a whole number"),
        ("data", "write it like data=4,fsdp=2"),
        ("data=2,data=2", "'data' is given twice"),
        ("data=-1,fsdp=-1", "only one axis can be -1"),
        ("tensor=0", "tensor=0: expected a positive whole number"),
        ("fsdp=-2", "fsdp=-2: expected a positive whole number"),
    ],
)
def test_parse_refuses_in_one_line(text, line):
    with pytest.raises(ValueError, match=re.escape(line)) as refusal:
        MeshConfig.parse(text)
    assert "\n" not in str(refusal.value)


def test_minus_one_takes_what_remains():
    assert MeshConfig(data=-1, fsdp=2, tensor=2).sizes(8) == {"data": 2, "fsdp": 2, "beam": 1, "tensor": 2}
    assert MeshConfig().sizes(1) == {"data": 1, "fsdp": 1, "beam": 1, "tensor": 1}
    assert MeshConfig(data=2, beam=-1).sizes(8) == {"data": 2, "fsdp": 1, "beam": 4, "tensor": 1}


def test_a_split_must_use_every_device():
    with pytest.raises(ValueError, match="takes 3 devices, found 8"):
        MeshConfig(data=3).sizes(8)
    with pytest.raises(ValueError, match="takes 4 devices, found 8"):
        MeshConfig(data=4).sizes(8)
    with pytest.raises(ValueError, match="8 is not a multiple of 3"):
        MeshConfig(fsdp=3).sizes(8)


def test_devices_needed_is_known_before_any_device_is_touched():
    assert MeshConfig(data=4, fsdp=2).devices_needed == 8
    assert MeshConfig(fsdp=2).devices_needed is None


def test_make_mesh_covers_the_devices_once_with_auto_axes():
    mesh = make_mesh(MeshConfig(data=2, beam=2, tensor=2))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "beam": 2, "tensor": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert set(mesh.devices.flat) == set(jax.devices())


def test_make_mesh_over_some_of_the_devices():
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 2, "beam": 1, "tensor": 1}
    assert set(mesh.devices.flat) == set(jax.devices()[:2])
