"""What counts of the files that a recipe names, and what is said of those that cannot be reached."""

from __future__ import annotations

import errno
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from devices.errors import DataError, EspalierError, ModelError
from pipeline.fingerprint import data_fingerprint, files_below, model_fingerprint
from pipeline.recipe import DataConfig, ModelConfig
from pipeline.recipe.sections import ONNX_FACTORY


def test_a_data_folder_that_a_run_was_started_in_counts(tmp_path: Path) -> None:
    """The default store is a folder of the name that marks folders of runs, and those are files."""
    for name in ("images", "store", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.png").write_bytes(b"1")
    (tmp_path / "images" / ".espalier" / "store").mkdir(parents=True)
    (tmp_path / "images" / ".espalier" / "store" / "result").write_bytes(b"2")
    (tmp_path / "run" / ".espalier").touch()
    assert files_below(tmp_path, tmp_path / "store") == [tmp_path / "images" / "one.png"]


def fingerprint(config: ModelConfig | DataConfig, store: Path) -> dict[str, object]:
    return model_fingerprint(config, store) if isinstance(config, ModelConfig) else data_fingerprint(config, store)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG])
def test_paths_that_the_system_does_not_look_up_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A folder of another user's, and a name that is too long."""
    far = str(tmp_path / "far" / "net")
    # Bound here, because the tests may run as root, who enters every folder.
    look = Path.stat

    def stat(self: Path, *, follow_symlinks: bool = True) -> object:
        if "far" in self.parts:
            raise OSError(number, "not to be looked up", str(self))
        return look(self, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", stat)
    model = "pipeline.zoo:mlp"
    refused: list[tuple[type[EspalierError], str]] = []
    for config in (
        ModelConfig(factory=model, weights=far),
        ModelConfig(factory=ONNX_FACTORY, args={"path": far}),
        DataConfig(factory=model, args={"images_path": far}),
        ModelConfig(factory=f"{far}.py:build"),
    ):
        with pytest.raises(EspalierError, match=r"cannot be read \(not to be looked up\)\. Check the path") as caught:
            fingerprint(config, tmp_path)
        refused.append((type(caught.value), caught.value.where))
    assert refused[:3] == [
        (ModelError, "model.weights"),
        (ModelError, "model.args.path"),
        (DataError, "data.args.images_path"),
    ]
    assert refused[3][1] == "model.factory"


def kept_in(place: str) -> TensorProto:
    """A weight whose values stand in another file."""
    tensor = TensorProto(name=place, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place
    return tensor


def branching(path: Path) -> Path:
    """An ONNX file that keeps weights in other files at each place where one may stand."""
    nothing: list[onnx.ValueInfoProto] = []
    inner = helper.make_graph([helper.make_node("Constant", [], ["i"], value=kept_in("inner"))], "inner", [], nothing)
    nodes = [
        helper.make_node("Constant", [], ["c"], value=kept_in("constant")),
        helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner),
    ]
    graph = helper.make_graph(nodes, "outer", [], nothing, initializer=[kept_in("top")])
    body = [helper.make_node("Constant", [], ["f"], value=kept_in("function"))]
    function = helper.make_function("own", "F", [], ["f"], body, [helper.make_opsetid("", 17)])
    path.write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())
    return path


@pytest.mark.parametrize("named", ["as the network", "by the factory alone"])
def test_every_weight_beside_an_onnx_file_counts(tmp_path: Path, named: str) -> None:
    path = str(branching(tmp_path / "net.onnx"))
    onnx_path = path if named == "as the network" else None
    config = ModelConfig(factory=ONNX_FACTORY, args={"path": path}, onnx=onnx_path)
    places = ("top", "constant", "inner", "function")
    for place in places:
        (tmp_path / place).write_bytes(bytes(4))
    seen = [model_fingerprint(config, tmp_path / "store")]
    for place in places:
        (tmp_path / place).write_bytes(b"new.")
        seen.append(model_fingerprint(config, tmp_path / "store"))
        assert seen[-1] not in seen[:-1], place
