"""What networks return is made plain by a hook: names stay, copies keep it, and it goes through export and training."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from devices.engines.onnxruntime import open_reference
from devices.errors import ModelError
from exporters.onnx_export import export_onnx
from exporters.parity import ParityLimits, compare
from exporters.quantize import quantize_int8
from exporters.simplify import simplify_onnx
from pipeline.model import build_network, check_network
from pipeline.recipe import ModelConfig, TaskConfig
from pipeline.tasks.outputs import PlainOutputs
from pipeline.tasks.select import plain_outputs

CUSTOM = TaskConfig(kind="custom", loss="a:b", score="a:c")
CLASSIFICATION, SEGMENTATION = TaskConfig(), TaskConfig(kind="segmentation")
LIMITS = ParityLimits(min_sqnr_db=60, min_agreement=1)
Named = namedtuple("Named", ["logits", "aux"])
ONE, TWO, THREE = (torch.full((2, 3), float(value)) for value in (1, 2, 3))


class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """As transformers returns them: a dictionary in order, without what is None."""


@dataclass
class Record:
    """Outputs as fields."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread only waits for the first, and longer when others run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain(outputs: Any, config: TaskConfig = CLASSIFICATION) -> Any:
    return plain_outputs(config)(nn.Identity(), (), outputs)


@pytest.mark.parametrize(
    "outputs",
    [
        ONE,
        (ONE,),
        [ONE],
        [[ONE], None],
        {"logits": ONE},
        {"scores": ONE},
        ModelOutput(logits=ONE, hidden_states=(TWO, THREE)),
        {"out": ONE, "aux": TWO},
        Named(ONE, TWO),
        Record(ONE),
        Record(ONE, TWO),
    ],
)
def test_logits_are_found(outputs: Any) -> None:
    assert plain(outputs) is ONE
    assert plain(outputs, SEGMENTATION) is ONE


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (ONE, ONE),
        ([ONE], ONE),
        ((ONE, TWO), (ONE, TWO)),
        ({"logits": ONE, "boxes": TWO}, (ONE, TWO)),
        ((ONE, [TWO, THREE], None), (ONE, TWO, THREE)),
        (ModelOutput(logits=ONE, states=(TWO, THREE)), (ONE, TWO, THREE)),
        (Record(ONE, TWO), (ONE, TWO)),
    ],
)
def test_a_custom_task_keeps_all_in_order(outputs: Any, expected: Any) -> None:
    found = plain(outputs, CUSTOM)
    assert found is expected or (type(found) is tuple and all(a is b for a, b in zip(found, expected, strict=True)))


def test_a_custom_task_chooses_by_name() -> None:
    chosen = CUSTOM.model_copy(update={"outputs": ("boxes", "logits")})
    assert plain({"logits": ONE, "more": THREE, "boxes": TWO}, chosen) == (TWO, ONE)
    assert plain(Named(ONE, TWO), CUSTOM.model_copy(update={"outputs": ("aux",)})) is TWO
    for outputs, found in (({"logits": ONE, "box": TWO}, "logits, box"), ((ONE, TWO), "none by name")):
        with pytest.raises(ModelError, match=rf"task.outputs: the network returns no 'boxes' \(it returns {found}\)"):
            plain(outputs, chosen)


def test_what_is_no_tensor_is_left_for_the_check_to_name() -> None:
    assert plain("text") == "text"
    assert plain({"loss": None}) == {"loss": None}
    assert plain((ONE, TWO)) == (ONE, TWO)


FACTORY = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form
        self.body = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.norm(self.body(x))
        pooled = y.mean(dim=(2, 3))
        if self.form == "named":
            return {"logits": pooled, "maps": y}
        if self.form == "several":
            return pooled, [y]
        if self.form == "maps":
            return {"out": y, "aux": pooled}
        return (pooled,)

def own(form):
    return Own(form)
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., nn.Module]:
    """A network that returns this form, for this task."""
    path = tmp_path_factory.mktemp("user") / "own.py"
    path.write_text(FACTORY)

    def built(form: str, task: TaskConfig = CLASSIFICATION, **more: Any) -> nn.Module:
        return build_network(ModelConfig(factory=f"{path}:own", args={"form": form}, **more), 0, task)

    return built


def images() -> torch.Tensor:
    return torch.rand((4, 1, 6, 6), generator=torch.Generator().manual_seed(0))


def test_names_stay_and_copies_answer_alike(build: Callable[..., nn.Module]) -> None:
    network = build("named")
    names = ["body.weight", "body.bias", "norm.weight", "norm.bias"]
    assert [name for name, _ in network.named_parameters()] == names
    twin = copy.deepcopy(network)
    with torch.no_grad():
        assert torch.equal(twin(images()), network(images()))
    # In training too, and with gradients.
    network.train()
    found = network(images())
    assert found.shape == (4, 3)
    found.sum().backward()
    assert network.get_parameter("body.weight").grad is not None
    inside = build("named", mean=(0.5,), std=(0.5,))
    assert inside(images()).shape == (4, 3)
    assert [name for name, _ in inside.named_parameters()] == [f"network.{name}" for name in names]


def test_a_hooked_network_goes_through_torch_export(build: Callable[..., nn.Module]) -> None:
    network = build("several", CUSTOM)
    program = torch.export.export(network, (images(),))
    with torch.no_grad():
        expected = network(images())
    for found, wanted in zip(program.module()(images()), expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("opset", [17, 20])
def test_several_outputs_keep_their_parity_to_int8(tmp_path: Path, build: Callable[..., nn.Module], opset: int) -> None:
    """Exported by both exporters, simplified, quantized: names, shapes, and the worst output's signal to noise."""
    network, samples = build("several", CUSTOM), images().numpy()
    parity = export_onnx(network, samples, opset, tmp_path / "a.onnx", LIMITS, 1, None)
    assert parity.agreement is None
    simplify_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", samples, LIMITS, 1, None)
    loose = ParityLimits(min_sqnr_db=10, min_agreement=1)
    int8 = quantize_int8(tmp_path / "b.onnx", tmp_path / "c.onnx", samples, samples, "unsigned", 8, loose, 1, None)
    before, after = (open_reference(tmp_path / f"{name}.onnx", 1)(samples) for name in ("b", "c"))
    assert [part.shape for part in after] == [(4, 3), (4, 3, 6, 6)]
    assert [port.name for port in onnx.load(tmp_path / "c.onnx").graph.output] == ["output_0", "output_1"]
    each = [compare("one", old, new, None).sqnr_db for old, new in zip(before, after, strict=True)]
    assert int8.sqnr_db == min(each)
    # Another comparison than that of classes may be asked for, and decides.
    told = export_onnx(network, samples, opset, tmp_path / "a.onnx", LIMITS, 1, lambda *_: 1.0)
    assert told.agreement == 1


def test_segmentation_is_exported_and_pixels_agree(tmp_path: Path, build: Callable[..., nn.Module]) -> None:
    network = build("maps", SEGMENTATION)
    parity = export_onnx(network, images().numpy(), 17, tmp_path / "a.onnx", LIMITS, 1)
    assert parity.agreement == 1
    answer = open_reference(tmp_path / "a.onnx", 1)(images().numpy())
    assert isinstance(answer, np.ndarray)
    assert answer.shape == (4, 3, 6, 6)


@pytest.mark.parametrize(
    ("form", "task", "says"),
    [
        ("several", CLASSIFICATION, "returns tuple of 2 outputs. It must return a tensor of logits; for anything else"),
        ("maps", CLASSIFICATION, "returns shape (2, 3, 6, 6) for two images and 3 classes. It must return (N, 3);"),
        ("one", SEGMENTATION, "returns shape (2, 3) for two images and 3 classes. It must return (N, 3, h, w);"),
        ("named", CUSTOM.model_copy(update={"outputs": ("boxes",)}), "the network returns no 'boxes'"),
    ],
)
def test_outputs_that_do_not_fit_the_task(
    build: Callable[..., nn.Module], form: str, task: TaskConfig, says: str
) -> None:
    with pytest.raises(ModelError) as refused:
        check_network(build(form, task), (1, 6, 6), 3, task)
    assert says in str(refused.value)


@pytest.mark.parametrize(("form", "task"), [("named", CLASSIFICATION), ("maps", SEGMENTATION), ("several", CUSTOM)])
def test_outputs_that_fit_the_task(build: Callable[..., nn.Module], form: str, task: TaskConfig) -> None:
    check_network(build(form, task), (1, 6, 6), 3, task)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: x.sum(), "returns shape (), torch.float32 for two images"),
        (lambda x: (x, x[:1]), "returns shape (1, 1, 6, 6), torch.float32"),
        (lambda x: x.argmax(1), "returns shape (2, 6, 6), torch.int64"),
        (lambda x: {"a": x}, "returns dict for two images"),
    ],
)
def test_outputs_that_no_task_can_use(answer: Callable[[torch.Tensor], Any], says: str) -> None:
    class Answering(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return answer(x)

    with pytest.raises(ModelError) as refused:
        check_network(Answering(), (1, 6, 6), 0, CUSTOM)
    assert says in str(refused.value)
    assert "tensors of numbers, one row an image" in str(refused.value)


def test_hooks_are_equal_when_they_do_the_same() -> None:
    assert plain_outputs(CUSTOM) == PlainOutputs(keep_all=True)
