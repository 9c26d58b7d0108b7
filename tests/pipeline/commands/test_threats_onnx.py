"""`espalier scan` and `espalier defend` of an ONNX file, which has no weights but its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from exporters.parity import ParityLimits
from pipeline.cli import main
from pipeline.compute import seeded
from pipeline.datasets.digits import digits
from pipeline.recipe import FitConfig
from pipeline.threats.kit.victim import train_clean
from pipeline.zoo import residual_cnn

RECIPE = """
name = "file"
threads = 1
[model]
onnx = "net.onnx"
[data]
factory = "pipeline.datasets.digits:digits"
[threats]
samples = 8
inversion_steps = 2
[prune]
target_macs = 0.7
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the file of a trained network, and a recipe of it."""
    from exporters.onnx_export import export_onnx

    folder, data = tmp_path_factory.mktemp("onnx"), digits()
    with seeded(0):
        network = residual_cnn(channels=8, blocks=1)
    network = train_clean(network, data, FitConfig(epochs=3), 0).eval()
    limits = ParityLimits(min_sqnr_db=60, min_agreement=0.9)
    export_onnx(network, data.train.batch(np.arange(8)), 17, folder / "net.onnx", limits, 1)
    (folder / "file.toml").write_text(RECIPE)
    model = onnx.load(folder / "net.onnx")
    for side, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[side].dim_param = name
    onnx.save(model, folder / "open.onnx")
    (folder / "open.toml").write_text(RECIPE.replace("net.onnx", "open.onnx"))
    return folder


def call(base: Path, *arguments: str) -> int:
    return main([*arguments, "--store", str(base / "store")])


def test_a_file_is_scanned_without_references(base: Path) -> None:
    """They would be the file's own network, and what is unusual of it would count as usual."""
    assert call(base, "scan", str(base / "file.toml"), "--json", str(base / "scan.json")) in (0, 11)
    found = json.loads((base / "scan.json").read_text())["findings"]
    assert {finding["network"] for finding in found} >= {"dense", "pruned", "pruned int8"}
    assert {finding["detail"]["references"] for finding in found if finding["method"] == "inversion"} == {0}


def test_what_defend_says_of_a_file_is_what_takes_its_network(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = base / "defended"
    given = ["--method", "fine-pruning", "--clean-samples", "50", "--max-drop", "60", "--out", str(out)]
    assert call(base, "defend", str(base / "open.toml"), *given) == 4
    assert "Give image_size = [H, W] (in a recipe under [model])" in capsys.readouterr().err
    assert call(base, "defend", str(base / "open.toml"), *given, "--set", "model.image_size=[8, 8]") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    said = re.fullmatch(rf"written: {out}\. .*under \[model\], in place of onnx and image_size, (.*)", last)
    assert said is not None
    (base / "cleaned.toml").write_text(
        RECIPE.replace('onnx = "net.onnx"', re.sub(", (args|weights)", r"\n\1", said[1]))
    )
    assert call(base, "scan", str(base / "cleaned.toml"), "--json", str(base / "cleaned.json")) in (0, 11)
    assert {finding["network"] for finding in json.loads((base / "cleaned.json").read_text())["findings"]} >= {"dense"}
