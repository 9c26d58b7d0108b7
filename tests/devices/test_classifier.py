"""The shipped engine as a function, in three lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import devices
from devices.detect import Host
from devices.errors import BundleError, DataError, DeviceError
from exporters.keys import make_key
from exporters.sign import SignConfig, sign_bundle
from tests.devices.parts import CLASSES, SIZE, build_engine, build_onnx, rows_image, rows_kernel


@pytest.mark.parametrize("label", range(3))
def test_three_lines_classify_a_frame(deploy: Path, label: int) -> None:
    classify = devices.load(deploy, allow_unsigned=True)
    image = (rows_image(label, 0.2)[0] * 255).round().astype(np.uint8)
    found = classify(image)
    assert (found.label, found.index) == (CLASSES[label], label)
    # Twelve pixels of 153/255 against twelve of 102/255.
    expected = 1 / (1 + 2 * np.exp(12 * (102 - 153) / 255))
    assert found.probability == pytest.approx(expected, rel=1e-5)


def test_a_large_colour_frame_is_made_to_fit(deploy: Path) -> None:
    classify = devices.load(str(deploy), allow_unsigned=True)
    large = np.repeat(np.repeat(rows_image(1, 0.4)[0], 40, axis=0), 50, axis=1)
    assert classify(np.stack([large] * 3, axis=2)).label == "middle"
    with pytest.raises(DataError, match="channels"):
        classify(np.stack([large] * 4, axis=2))


def test_probabilities_are_finite_where_logits_are_large(
    deploy: Path, host: Host, seal: Callable[[Path], None]
) -> None:
    _replace_engine(deploy, rows_kernel() * 1e30, host)
    seal(deploy)
    assert devices.load(deploy, allow_unsigned=True)(rows_image(2, 0.4)[0]).probability == 1.0


def test_an_answer_that_is_not_finite_is_refused(deploy: Path, host: Host, seal: Callable[[Path], None]) -> None:
    _replace_engine(deploy, np.full((3, 1, SIZE, SIZE), 3e38, dtype=np.float32), host)
    seal(deploy)
    with pytest.raises(DeviceError, match="not finite"):
        devices.load(deploy, allow_unsigned=True)(rows_image(2, 0.4)[0])


def test_an_unsigned_bundle_needs_a_word(deploy: Path) -> None:
    with pytest.raises(BundleError, match="allow_unsigned=True"):
        devices.load(deploy)


def test_an_evidence_bundle_is_refused(evidence: Path) -> None:
    with pytest.raises(BundleError, match="'evidence', not 'deploy'"):
        devices.load(evidence, allow_unsigned=True)


def test_a_clock_that_is_plainly_wrong_is_allowed_by_name(deploy: Path, tmp_path: Path) -> None:
    """Here it shows a time before the file of trust was written."""
    make_key(tmp_path / "keys", "k", None, date(2099, 1, 1))
    sign_bundle(deploy, SignConfig(private_key=tmp_path / "keys" / "k.key"))
    trust = tmp_path / "keys" / "k.trust.toml"
    trust.write_text(re.sub("issued = .*", "issued = 2098-12-01", trust.read_text()))
    with pytest.raises(BundleError, match="allow_unknown_clock=True"):
        devices.load(deploy, trust=trust)
    assert devices.load(deploy, trust=trust, allow_unknown_clock=True)(rows_image(2, 0.4)[0]).index == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("labels.json", ["a", "b"], "2 labels for 3 classes"),
        ("labels.json", {"0": "a"}, "list of texts"),
        ("labels.json", ["a", "b", 3], "list of texts"),
        ("preprocess.json", {"channels": 3, "height": 6, "width": 6}, r"engine's input \(1, 6, 6\)"),
        ("preprocess.json", [], "exactly the keys"),
        ("engine/engine.json", [], "exactly the keys"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    deploy: Path, seal: Callable[[Path], None], name: str, content: Any, said: str
) -> None:
    (deploy / name).write_text(json.dumps(content))
    seal(deploy)
    with pytest.raises(BundleError, match=said) as caught:
        devices.load(deploy, allow_unsigned=True)
    assert caught.value.where.startswith(str(deploy / name))


def test_an_engine_of_another_onnx_file_is_refused(deploy: Path, seal: Callable[[Path], None]) -> None:
    build_onnx(deploy / "model.onnx", rows_kernel() * 2)
    seal(deploy)
    with pytest.raises(BundleError, match=r"engine\.json: onnx_sha256"):
        devices.load(deploy, allow_unsigned=True)


def test_a_bundle_without_an_engine_is_refused(deploy: Path, seal: Callable[[Path], None]) -> None:
    (deploy / "engine" / "engine.onnx").unlink()
    seal(deploy)
    with pytest.raises(BundleError, match=r"engine/engine\.onnx: is not in this bundle"):
        devices.load(deploy, allow_unsigned=True)


def test_an_engine_for_elsewhere_is_refused(deploy: Path, seal: Callable[[Path], None]) -> None:
    path = deploy / "engine" / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host_class": "sparc64-vis"}))
    seal(deploy)
    with pytest.raises(DeviceError, match="optimized for sparc64-vis"):
        devices.load(deploy, allow_unsigned=True)


def test_the_package_offers_load_and_nothing_that_is_not_there() -> None:
    assert devices.__all__ == ["load"]
    with pytest.raises(AttributeError, match="lode"):
        devices.lode  # noqa: B018


def _replace_engine(bundle: Path, kernel: Any, host: Host) -> None:
    build_engine(bundle / "engine", build_onnx(bundle / "model.onnx", kernel), host)
