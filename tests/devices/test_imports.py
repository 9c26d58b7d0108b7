"""Who may import whom: dependencies point one way, and a board needs numpy and an engine runtime alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("pipeline", "exporters", "devices")
HEAVY = ("torch", "onnx", "pydantic", "scipy", "sklearn", "PIL", "jinja2", "safetensors", "onnxsim", "onnxscript")

BLOCKED = """
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is not on a board")
sys.meta_path.insert(0, Refuse())
import devices
names = sorted(found.name for found in pkgutil.walk_packages(devices.__path__, "devices."))
for name in names:
    importlib.import_module(name)
print(*names)
"""


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import hides where it leads; the house has none.
            yield node.lineno, (node.module or "").split(".")[0] if not node.level else "."


def test_every_module_of_devices_loads_without_what_a_board_lacks() -> None:
    loaded = python(BLOCKED.format(blocked=[*HEAVY, "pipeline", "exporters"])).split()
    expected = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "devices").rglob("*.py")
        if path.name != "__init__.py"
    }
    assert expected <= set(loaded)
    assert "devices.engines.onnxruntime" in loaded


def test_the_block_blocks() -> None:
    with pytest.raises(AssertionError, match="numpy is not on a board"):
        python(BLOCKED.format(blocked=["numpy"]))


@pytest.mark.parametrize("path", sorted((ROOT / "devices").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_devices_imports_the_standard_library_and_numpy(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"devices", "numpy", "tomli", "tomllib"}
    assert [(line, name) for line, name in imports(path) if name not in allowed] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package: str) -> None:
    above = PACKAGES[: PACKAGES.index(package)]
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    upwards = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imports(path)
        if name in (*above, "tests", ".")
    ]
    assert upwards == []


def test_a_module_of_devices_does_not_load_heavy_things_by_a_text() -> None:
    named = {
        node.args[0].value
        for path in (ROOT / "devices").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and "import_module" in ast.unparse(node.func)
        and isinstance(node.args[0], ast.Constant)
    }
    assert named <= {"onnxruntime", "tensorrt", "tensorrt_rtx"}
    assert "onnxruntime" in named


@pytest.mark.parametrize("module", ["devices", "devices.profile", "devices.detect", "devices.errors", "devices.bundle"])
def test_looking_at_profiles_hosts_and_bundles_loads_no_numpy(module: str) -> None:
    code = f"import sys, {module}; print(*({{'numpy', 'onnxruntime', 'torch'}} & set(sys.modules)))"
    assert python(code) == ""


def test_load_is_found_when_it_is_asked_for() -> None:
    assert python("import sys, devices; devices.load; print('numpy' in sys.modules, 'onnxruntime' in sys.modules)") == (
        "True False"
    )
