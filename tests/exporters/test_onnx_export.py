"""Networks that cannot be exported, or only in part: each is refused in one line, and nothing is printed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from devices.errors import ModelError, ParityError
from exporters.onnx_export import export_onnx
from exporters.parity import Parity, ParityLimits
from tests.exporters.parts import network, samples
from tests.pipeline.prune.networks import build, images

LIMITS = ParityLimits(min_sqnr_db=60, min_agreement=0.99)


class Calling(nn.Module):
    """A linear layer, and a function of it and the image."""

    def __init__(self, body: Callable[[torch.Tensor, nn.Linear], object]) -> None:
        super().__init__()
        self.body = body
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layer = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> object:
        """Whatever the function gives."""
        return self.body(x, self.layer)


def export(body: Callable[[torch.Tensor, nn.Linear], object], path: Path, opset: int = 17, count: int = 9) -> Parity:
    """Export by the older exporter, unless said otherwise."""
    return export_onnx(Calling(body).eval(), samples(count), opset, path, LIMITS, threads=1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda x, layer: (layer(x.flatten(1)), [x]), "the network returns list for 9 images"),
        (lambda x, layer: layer(x.flatten(1)).sum(), "the network returns () for 9 images"),
        (lambda x, layer: layer(x.flatten(1))[:2], "the network returns (2, 10) for 9 images"),
        (lambda x, layer: layer(x.view(2, 64)), "does not take a batch of 9 images: shape '[2, 64]' is invalid"),
        (lambda x, layer: layer(x.reshape(len(x), 64)), "the exported network does not take every batch size"),
        (lambda x, layer: torch.from_numpy(layer(x.flatten(1)).detach().numpy()), "a fixed batch size or no input"),
        (lambda x, layer: layer(torch.special.bessel_j0(x).flatten(1)), "cannot be exported to ONNX: Exporting the op"),
    ],
    ids=["a list", "one number", "fewer rows", "view", "traced length", "numpy", "unknown operation"],
)
def test_what_cannot_be_exported_is_refused_in_silence(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    body: Callable[[torch.Tensor, nn.Linear], object],
    says: str,
) -> None:
    with pytest.raises(ModelError) as refused:
        export(body, tmp_path / "m.onnx")
    assert str(refused.value).startswith("export: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_the_root_of_the_newer_exporter_s_error_is_what_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ModelError, match=r"^export: the network cannot be exported to ONNX: Could not guard on data-de"
    ):
        export(lambda x, layer: layer(x.flatten(1)) * (2 if x.sum() > 0 else 1), tmp_path / "m.onnx", opset=20)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_a_network_that_computes_by_what_is_in_the_image_is_told_what_to_do(tmp_path: Path) -> None:
    def branch(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
        y: torch.Tensor = layer(x.flatten(1))
        return y if bool(x.mean() > 0.1) else -y

    with pytest.raises(ModelError, match=r"replace the branch by torch\.where"):
        export(branch, tmp_path / "model.onnx", opset=18)


def test_an_opset_that_the_exporter_does_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"^export.opset: is 99, and the exporter cannot write it: it gave (\d+). Set it"
    ):
        export(lambda x, layer: layer(x.flatten(1)), tmp_path / "m.onnx", opset=99)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("opset", "file_format"), [(9, 4), (13, 7), (17, 8)])
def test_the_file_is_of_no_newer_format_than_its_opset_needs(tmp_path: Path, opset: int, file_format: int) -> None:
    """A board's older runtime refuses a newer format, whatever the opset."""
    export_onnx(network(), samples(), opset, tmp_path / "m.onnx", LIMITS, threads=1)
    model = onnx.load(tmp_path / "m.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == file_format
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 40])
def test_any_number_of_samples_will_do(tmp_path: Path, count: int) -> None:
    parity = export(lambda x, layer: layer(x.flatten(1)), tmp_path / "m.onnx", count=count)
    assert parity.samples == count
    assert parity.border == "torch to ONNX"


def test_a_network_that_works_in_place_harms_no_sample(tmp_path: Path) -> None:
    given = samples(9)
    export_onnx(
        Calling(lambda x, layer: layer(x.sub_(0.5).flatten(1))).eval(),
        given,
        17,
        tmp_path / "m.onnx",
        LIMITS,
        threads=1,
    )
    assert np.array_equal(given, samples(9))


def test_transformer_layers_are_exported_in_parts(tmp_path: Path) -> None:
    """In inference PyTorch runs them as one operation, which its older exporter does not know."""
    export_onnx(build("attending"), images(9).numpy(), 17, tmp_path / "m.onnx", LIMITS, threads=1)
    assert "Softmax" in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert torch.backends.mha.get_fastpath_enabled()


def test_answers_that_differ_break_the_border(tmp_path: Path) -> None:
    """A batch's mean: the network answers otherwise when the same images come in other batches."""
    with pytest.raises(ParityError, match=r"^torch to ONNX: signal to noise is [-\d.]+ dB, at least 60 dB is asked"):
        export(lambda x, layer: layer(x.flatten(1)) - x.flatten(1).mean(0)[:10], tmp_path / "m.onnx")


def test_weights_that_are_not_finite_break_the_border(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"^torch to ONNX: the network's answers before this step are not finite"):
        export(lambda x, layer: layer(x.flatten(1)) / 0, tmp_path / "m.onnx")
