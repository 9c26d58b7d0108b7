"""Factories by reference, and the digest of the code behind them."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from devices.errors import ModelError, RecipeError
from devices.files import digest_bytes
from pipeline import source_digest
from pipeline.factory import call_factory, factory_digest, load_factory


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; imports made from it do not outlive the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    source_digest._source.cache_clear()
    return tmp_path


def test_a_file_may_import_its_neighbours(here: Path) -> None:
    (here / "neighbour_of_net.py").write_text("WIDTH = 3\n")
    (here / "net.py").write_text("from neighbour_of_net import WIDTH\ndef build(extra): return WIDTH + extra\n")
    build = load_factory(f"{here}/net.py:build", "model.factory")
    assert call_factory(build, {"extra": 2}, "model.factory", ModelError) == 5


def test_a_module_in_the_current_folder_is_found(here: Path) -> None:
    (here / "my_networks_package").mkdir()
    (here / "my_networks_package" / "__init__.py").write_text("")
    (here / "my_networks_package" / "nets.py").write_text("def build(): return 1\n")
    assert load_factory("my_networks_package.nets:build", "model.factory")() == 1


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("no_colon", "is not a factory"),
        ("a.b:not-a-name", "is not a factory"),
        ("missing_module_xyz:build", "cannot be imported"),
        ("nowhere.py:build", "there is no file"),
        ("pipeline.zoo:nothing", "has no callable 'nothing'"),
        ("os:sep", "has no callable 'sep'"),
    ],
)
def test_what_is_no_factory_is_said(here: Path, reference: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        load_factory(reference, "model.factory")
    assert caught.value.where == "model.factory"


def test_a_module_that_fails_or_lacks_a_library(here: Path) -> None:
    (here / "broken.py").write_text("1 / 0\n")
    (here / "lacking.py").write_text("import a_library_nobody_has\n")
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        load_factory(f"{here}/broken.py:build", "model.factory")
    with pytest.raises(RecipeError, match="Install 'a_library_nobody_has'"):
        load_factory(f"{here}/lacking.py:build", "model.factory")


def test_a_package_named_like_ours_is_explained(here: Path) -> None:
    """The user's own `pipeline` is hidden by ours: said, with the way round, which then works."""
    (here / "pipeline").mkdir()
    (here / "pipeline" / "networks.py").write_text("def build(): return 1\n")
    with pytest.raises(RecipeError) as caught:
        load_factory("pipeline.networks:build", "model.factory")
    assert "'pipeline' is Espalier's own package, and it hides yours" in str(caught.value)
    assert "pipeline/networks.py:callable" in str(caught.value)
    assert load_factory("pipeline/networks.py:build", "model.factory")() == 1


def test_a_factory_that_raises_is_said(here: Path) -> None:
    """With the user's own line, not that of a library it called; of a wrong call there is none."""
    with pytest.raises(ModelError, match=r"model\.factory: the factory raised TypeError: [^,]*argument 'unknown'\. "):
        call_factory(lambda: 1, {"unknown": 2}, "model.factory", ModelError)
    (here / "deep.py").write_text("import json\n\ndef build():\n    return json.loads('{')\n")
    with pytest.raises(ModelError, match=r"raised JSONDecodeError: .*deep\.py, line 4\)"):
        call_factory(load_factory(f"{here}/deep.py:build", "model.factory"), {}, "model.factory", ModelError)
    (here / "early.py").write_text("import torch\nSEEN = torch.zeros(2).reshape(3)\n")
    with pytest.raises(RecipeError, match=r"importing .* raised RuntimeError: .*early\.py, line 2\)"):
        load_factory(f"{here}/early.py:build", "model.factory")


def test_digest_follows_what_the_file_imports(here: Path) -> None:
    """A change in an imported neighbour counts; one in a file that nobody imports does not; nor does the folder."""
    (here / "deep.py").write_text("A = 1\n")
    (here / "near.py").write_text("import deep\n")
    (here / "net.py").write_text("def build():\n    from near import deep\n")
    (here / "other.py").write_text("B = 1\n")
    reference = f"{here}/net.py:build"

    def now() -> str:
        source_digest._source.cache_clear()
        return factory_digest(reference, "model.factory")

    before = now()
    (here / "other.py").write_text("B = 2\n")
    assert now() == before
    (here / "deep.py").write_text("A = 2\n")
    assert now() != before
    (here / "deep.py").write_text("A = 1\n")
    (here / "elsewhere").mkdir()
    for name in ("deep.py", "near.py", "net.py"):
        (here / name).rename(here / "elsewhere" / name)
    reference = f"{here}/elsewhere/net.py:build"
    assert now() == before


_BLOCKS = """
class Build:
    async def late(self, kind):
        with open(kind):
            for _ in kind:
                if kind: import m0
                elif self: import m1
                else: import m2
            else: import m3
        while kind: import m4
        else: import m5
        try: import m6
        except ValueError: import m7
        else: import m8
        finally: import m9
        match kind:
            case 1: from m10 import a
            case _: from m11 import a
        async for _ in kind: import m12
        async with kind: import m13
"""


def test_imports_in_all_kinds_of_blocks_count(here: Path) -> None:
    (here / "net.py").write_text(_BLOCKS)
    modules = [here / f"m{index}.py" for index in range(14)]
    for module in modules:
        module.write_text("a = 1\n")
    _, found, _ = source_digest._source(here / "net.py", here, ())
    assert {path.name for path in found} == {module.name for module in modules}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Content of the files that a digest is made of."""
    seen: list[bytes] = []

    def digest(content: bytes) -> str:
        seen.append(content)
        return digest_bytes(content)

    source_digest._source.cache_clear()
    monkeypatch.setattr(source_digest, "digest_bytes", digest)
    return seen


def test_our_own_code_counts_in_full(counted: list[bytes]) -> None:
    """The digest of a step covers the modules it imports inside functions."""
    source_digest.code_digest([source_digest.our_module("pipeline.steps.prune")])
    for name in ("pipeline.model", "pipeline.prune.stage"):
        assert source_digest.our_module(name).read_bytes() in counted


def test_a_digest_is_the_same_from_every_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, counted: list[bytes]
) -> None:
    (here / "mine.py").write_text("from pipeline.zoo import residual_cnn as net\n")
    digests = set()
    for folder in (here, source_digest.ROOT, here.parent):
        monkeypatch.chdir(folder)
        source_digest._source.cache_clear()
        counted.clear()
        digests.add(source_digest.code_digest([here / "mine.py"]))
        assert source_digest.our_module("pipeline.zoo").read_bytes() in counted
    assert len(digests) == 1


def test_imports_from_the_top_of_a_package_count(here: Path) -> None:
    """`from mine.layers import K` inside `mine/models/net.py`, and every `__init__.py` on the way."""
    (here / "mine" / "models").mkdir(parents=True)
    for name in ("mine/__init__.py", "mine/models/__init__.py"):
        (here / name).write_text("")
    (here / "mine" / "layers.py").write_text("K = 1\n")
    (here / "mine" / "models" / "net.py").write_text("from mine.layers import K\ndef build(): return K\n")

    def now() -> str:
        source_digest._source.cache_clear()
        return factory_digest("mine.models.net:build", "model.factory")

    before = now()
    (here / "mine" / "layers.py").write_text("K = 2\n")
    changed = now()
    (here / "mine" / "__init__.py").write_text("X = 1\n")
    assert len({before, changed, now()}) == 3


class Editable:
    """As the finder that setuptools puts on `sys.meta_path` for an editable install."""

    def __init__(self, packages: dict[str, Path]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        found = self.packages.get(name)
        return spec_from_file_location(name, found / "__init__.py") if found else None


@pytest.mark.parametrize("way", ["a finder", "the search path", "a namespace"])
@pytest.mark.parametrize("reference", ["mymodels.nets:build", "net.py:build"])
def test_code_that_is_found_elsewhere_counts(
    here: Path, monkeypatch: pytest.MonkeyPatch, way: str, reference: str
) -> None:
    """Of an editable install or a folder of PYTHONPATH: as the factory, or imported by a file. None of it is run."""
    elsewhere = here / "checkout" / "mymodels"
    elsewhere.mkdir(parents=True)
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    Path("net.py").write_text("from mymodels.nets import build\n")
    if way != "a namespace":
        (elsewhere / "__init__.py").write_text("raise SystemError\n")
    (elsewhere / "nets.py").write_text("import mymodels.deep\n")
    (elsewhere / "deep.py").write_text("A = 1\n")
    if way == "a finder":
        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable({"mymodels": elsewhere})])
    else:
        sys.path.append(str(elsewhere.parent))

    def now() -> str:
        source_digest._source.cache_clear()
        return factory_digest(reference, "model.factory")

    before = now()
    (elsewhere / "deep.py").write_text("A = 2\n")
    changed = now()
    (elsewhere / "nets.py").write_text("import mymodels.deep as near\n")
    assert len({before, changed, now()}) == 3


def test_an_installed_librarys_own_source_does_not_count(here: Path) -> None:
    """It counts by its version, on the search path or not; the standard library's does not either."""
    library = here / "site-packages" / "somelibrary"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text("A = 1\n")
    (here / "net.py").write_text("import json.decoder\nimport somelibrary\n")
    sys.path.append(str(library.parent))
    before = factory_digest(f"{here}/net.py:build", "model.factory")
    (library / "__init__.py").write_text("A = 2\n")
    source_digest._source.cache_clear()
    assert factory_digest(f"{here}/net.py:build", "model.factory") == before
    _, found, _ = source_digest._source(here / "net.py", here, tuple(sys.path))
    assert found == ()


def test_an_installed_library_counts_by_its_version() -> None:
    assert source_digest.installed_version("torch.nn")["torch"]
    assert factory_digest("sklearn.datasets:load_digits", "data.factory") != factory_digest("os:getcwd", "data.factory")


def test_a_factory_that_asks_to_exit_does_not_end_the_run(here: Path) -> None:
    (here / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(RecipeError, match="raised SystemExit"):
        load_factory(f"{here}/leaving.py:build", "model.factory")
