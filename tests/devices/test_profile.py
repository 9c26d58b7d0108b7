"""Profiles: what ships loads, and what is wrong is named with its file and key."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devices.errors import DeviceError
from devices.profile import Profile, load_profile, read_profile
from tests.devices.profile_parts import GOOD, KEYS, NUMBERS, changed, refusal, write


def test_all_values_are_read(tmp_path: Path) -> None:
    profile = read_profile(write(tmp_path / "board.toml", GOOD))
    for section in ("engine", "session", "pruning", "measure", "hardware", "recognise"):
        for key, value in GOOD[section].items():
            found = getattr(getattr(profile, section), key)
            assert found == (tuple(value) if isinstance(value, list) else value)
    assert (profile.name, profile.title, profile.kind) == ("board", "A board", "jetson")
    assert profile.sources == GOOD["sources"]


@pytest.mark.parametrize(("name", "nearest"), [("cpuu", "cpu"), ("jetson-agx-orin-64", "jetson-agx-orin-64gb")])
def test_a_misspelt_device_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(DeviceError, match=f"device '{name}'.*Did you mean '{nearest}'\\?"):
        load_profile(name)


@pytest.mark.parametrize("name", ["", "../cpu", "cpu.tom", "/etc/passwd", "a\0b"])
def test_a_device_name_is_no_path(name: str) -> None:
    with pytest.raises(DeviceError, match="no such profile"):
        load_profile(name)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in ("kind", "name", "title")])
def test_a_misspelt_key_names_the_nearest(tmp_path: Path, key: str) -> None:
    raw = changed(key, None)
    section, name = key.split(".")
    raw[section][name[:-1] + "_"] = GOOD[section][name]
    error = refusal(tmp_path, raw)
    assert f"{section}.{name[:-1]}_" in error.where
    assert f"'{key}'" in error.fix


def test_an_unknown_section_or_source_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, GOOD | {"hardwear": {"sm_count": 1}})
    assert "hardwear" in error.where
    assert "'hardware'" in error.fix
    error = refusal(tmp_path, GOOD | {"sources": {"engine.max_opsets": "tried"}})
    assert "sources.engine.max_opsets" in error.where
    assert "'sources.engine.max_opset'" in error.fix


NEEDED = ("engine.runtime", "engine.max_opset", "engine.precisions", "pruning.channel_step", "measure.batch_sizes")


@pytest.mark.parametrize("key", ["name", "title", "kind", *NEEDED])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    error = refusal(tmp_path, changed(key, None))
    assert error.where.endswith(f": {key}")
    assert error.what == "is missing"


@pytest.mark.parametrize("section", ["engine", "pruning", "measure"])
def test_a_missing_section_is_named(tmp_path: Path, section: str) -> None:
    assert refusal(tmp_path, changed(section, None)).where.endswith(f": {section}")


@pytest.mark.parametrize("key", KEYS)
def test_a_wrong_type_is_named(tmp_path: Path, key: str) -> None:
    *section, name = key.split(".")
    good = GOOD[section[0]][name] if section else GOOD[name]
    for bad in (1 if isinstance(good, bool) else True, 3 if isinstance(good, str) else "text", [[1]], [], {"a": 1}):
        error = refusal(tmp_path, changed(key, bad))
        assert error.where.endswith(f": {key}")
        assert "must be" in error.what


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_out_of_range_is_named(tmp_path: Path, key: str) -> None:
    for bad in (0, -1, 10**30) if key != "hardware.dla_cores" else (-1, 10**30):
        error = refusal(tmp_path, changed(key, bad))
        assert error.where.endswith(f": {key}")
        assert "at most" in error.what


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.5])
def test_a_rate_that_is_no_number_is_named(tmp_path: Path, bad: float) -> None:
    assert refusal(tmp_path, changed("hardware.memory_gb", bad)).where.endswith(": hardware.memory_gb")


@pytest.mark.parametrize(
    ("key", "bad", "said"),
    [
        ("kind", "cpus", "Did you mean 'cpu'?"),
        ("engine.runtime", "tensort", "Did you mean 'tensorrt'?"),
        ("engine.precisions", ["fp32", "fp17"], "'fp17' is not one of"),
        ("engine.precisions", ["fp32", "fp32"], "'fp32' twice"),
        ("measure.batch_sizes", [1, 8, 1], "1 twice"),
        ("measure.batch_sizes", [1, 0], "above 0"),
        ("engine.int8_activations", "asymmetric", "unsigned, signed"),
        ("engine.served_by", "trtexe", "Did you mean 'trtexec'?"),
        ("engine.versions", ["8.6", "ten"], "versions such as '8.6'"),
        ("engine.jetpack", ["6.x"], "releases such as '6'"),
        ("hardware.power_mode", " ", "is empty"),
        ("name", "../board", "lower-case"),
        ("name", "My Board", "lower-case"),
        ("title", "  ", "is empty"),
        ("hardware.compute_capability", "sm_87", "8.7"),
        ("recognise.device_tree_model", "Orin (", "not a regular expression"),
        ("recognise.gpu_name", "*", "not a regular expression"),
        ("recognise.machine", [""], "is empty"),
        ("session.graph_optimization", "al", "Did you mean 'all'?"),
        ("session.device_id", -1, "0 or more"),
        ("session.allow_fallback", ["Shape", "Shape"], "'Shape' twice"),
    ],
)
def test_a_value_that_is_none_of_the_allowed_is_named(tmp_path: Path, key: str, bad: Any, said: str) -> None:
    error = refusal(tmp_path, changed(key, bad))
    assert error.where.endswith(f": {key}")
    assert said in str(error)


@pytest.mark.parametrize("sources", ["text", {"hardware": 3}])
def test_sources_are_texts(tmp_path: Path, sources: Any) -> None:
    assert refusal(tmp_path, GOOD | {"sources": sources}).where.endswith(": sources")


@pytest.mark.parametrize("section", ["engine", "hardware", "recognise"])
def test_a_section_that_is_no_table_is_named(tmp_path: Path, section: str) -> None:
    assert refusal(tmp_path, changed(section, 3)).where.endswith(f": {section}")


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(DeviceError) as caught:
            read_profile(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize(
    "content", [b"name = ", b"\xff\xfe", b"a = " + b"[" * 5000, b"a = " + b"9" * 5000, b"title = 0x" + b"f" * 5000]
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(content)
    with pytest.raises(DeviceError) as caught:
        read_profile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("key", ["threads", "provider"])
def test_a_number_too_long_to_write_is_named(tmp_path: Path, key: str) -> None:
    path = write(tmp_path / "board.toml", changed(f"engine.{key}", None))
    path.write_text(path.read_text().replace("[engine]", f"[engine]\n{key} = 0x{'f' * 5000}"))
    with pytest.raises(DeviceError, match=f"engine.{key}: must be .*, not so long a number"):
        read_profile(path)


_scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["cpu", "fp32", "onnxruntime", "8.7", "signed"]),
    st.datetimes(),
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=2)
)


@settings(max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "based_on", "sources.engine", "extra", "engine.extra"]), _values, min_size=1, max_size=4
    )
)
@example({"recognise.gpu_name": "(" * 2000})
def test_any_value_gives_a_profile_or_a_device_error(tmp_path: Path, values: dict[str, Any]) -> None:
    raw = copy.deepcopy(GOOD)
    for key, value in values.items():
        *section, name = key.split(".", 1)
        (raw[section[0]] if section else raw)[name] = value
    path = write(tmp_path / "board.toml", raw)
    with warnings.catch_warnings():
        # `re` warns of expressions that it may read in another way one day.
        warnings.simplefilter("ignore", FutureWarning)
        found = _read(path)
    if isinstance(found, DeviceError):
        assert str(path) in found.where
        assert str(found).isprintable()


def _read(path: Path) -> Profile | DeviceError:
    try:
        return read_profile(path)
    except DeviceError as error:
        return error


@given(st.binary(max_size=60) | st.text("[]{}=\"'\n.,#ab1 \\u", max_size=60).map(str.encode))
def test_any_file_gives_a_device_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(content)
    with pytest.raises(DeviceError, match=r"board\.toml"):
        read_profile(path)
