"""What a user may get wrong, through the command itself: one message that names field or file, and the exit code."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devices.errors import EXIT_CODES, ModelError
from devices.profile import profile_names
from tests import drill

RECIPES = Path(__file__).parent.parent.parent / "recipes"


def fails(
    folder: Path,
    code: int,
    *says: str,
    recipe: Path = drill.DRILL,
    more: tuple[str, ...] = (),
    store: Path | None = None,
) -> None:
    """The run ends with the code and one line that says all of this, leaving no run folder."""
    done = drill.run(store or folder / "store", folder / "run", *more, recipe=recipe)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("[")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    for text in says:
        assert text in lines[0]
    assert not (folder / "run").exists()


def own_model(folder: Path, body: str) -> tuple[str, ...]:
    """Use a model factory with this code."""
    (folder / "own.py").write_text(f"import torch\nfrom torch import nn\n{body}\n")
    return "--set", f"model.factory={folder}/own.py:build", "--set", "model.args={}"


def weights(path: Path) -> tuple[str, ...]:
    """A recipe of the drill network with these weights instead of training."""
    return "--set", f"model.weights={path}"


@pytest.fixture
def loading(tmp_path: Path) -> Path:
    """The drill recipe without its training: it loads weights."""
    folder = tmp_path / "recipe"
    shutil.copytree(drill.DRILL.parent, folder)
    text = (folder / "drill.toml").read_text()
    start, end = text.index("[train]"), text.index("[prune]")
    (folder / "drill.toml").write_text(text[:start] + text[end:])
    return folder / "drill.toml"


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("--set", "prune.target_mac=0.5"), 3, ("prune.target_mac", "Did you mean 'prune.target_macs'")),
        (("--set", "train.epochs='many'"), 3, ("train.epochs", "'many'")),
        (("--set", "prune.target_macs=0.0001"), 3, ("prune.target_macs", "cannot be met", "remain")),
        (("--set", "prune.ignore=['nothing.*']"), 3, ("prune.ignore", "'nothing.*' matches no parameter")),
        (("--set", "export.opset=99"), 3, ("export.opset", "99", "takes at most 20")),
        (("--set", "model.factory=pipeline.zoo:nothing"), 3, ("model.factory", "has no callable")),
        (("--set", "model.factory=nowhere.py:build"), 3, ("model.factory", "there is no file")),
        (("--set", "model.args={chanels=3}"), 4, ("model.factory", "TypeError")),
        (("--set", "data.args={fold=9}"), 5, ("data.args", "fold 9 of 5")),
        (("--set", "train.learning_rate=1e30"), 4, ("training", "epoch 1", "Lower learning_rate")),
        (("--set", "parity.float_sqnr_db=300"), 8, ("torch to ONNX", "300 dB")),
        (("--device", "jetson-orin-nano-8gb"), 6, ("jetson-orin-nano-8gb", "TensorRT", "--device cpu")),
        (("--device", "rtx-409"), 6, ("rtx-409", "Did you mean 'rtx-4090'")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_values(
    tmp_path: Path, drilled: tuple[Path, Path], more: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    # The steps before the one that fails are stored there.
    fails(tmp_path, code, *says, more=more, store=drilled[0])


def test_missing_and_broken_recipe(tmp_path: Path) -> None:
    fails(tmp_path, 3, "nowhere.toml", "there is no such file", recipe=tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("name = [1,\n")
    fails(tmp_path, 3, "broken.toml", "is not valid TOML", recipe=tmp_path / "broken.toml")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def build():\n    raise RuntimeError('no luck')", "the factory raised RuntimeError: no luck"),
        ("def build():\n    return [1, 2]", "returned list"),
        (
            "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(65, 10))",
            "does not take images of shape (1, 8, 8)",
        ),
        ("def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))", "returns shape (2, 7)"),
    ],
    ids=["raises", "no module", "wrong input", "wrong output"],
)
def test_wrong_networks(tmp_path: Path, body: str, says: str) -> None:
    fails(tmp_path, 4, "model", says, more=own_model(tmp_path, body))


def test_checkpoints_that_cannot_be_used(tmp_path: Path, loading: Path) -> None:
    """Missing, not finite, of another network, no checkpoint at all."""
    import torch
    from safetensors.torch import save_file

    sys.path.insert(0, str(loading.parent))
    try:
        from network import tiny
    finally:
        sys.path.remove(str(loading.parent))
    state = tiny(8).state_dict()
    fails(
        tmp_path,
        4,
        "nowhere.safetensors",
        "there is no file",
        recipe=loading,
        more=weights(tmp_path / "nowhere.safetensors"),
    )
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["0.weight"][0, 0, 0, 0] = torch.nan
    save_file(broken, tmp_path / "nan.safetensors")
    fails(
        tmp_path,
        4,
        "nan.safetensors",
        "'0.weight'",
        "not finite",
        recipe=loading,
        more=weights(tmp_path / "nan.safetensors"),
    )
    save_file(tiny(16).state_dict(), tmp_path / "wide.safetensors")
    fails(
        tmp_path,
        4,
        "wide.safetensors",
        "'0.weight' has shape (16, 1, 3, 3)",
        recipe=loading,
        more=weights(tmp_path / "wide.safetensors"),
    )
    (tmp_path / "text.safetensors").write_text("no tensors")
    fails(
        tmp_path, 4, "text.safetensors", "cannot be read", recipe=loading, more=weights(tmp_path / "text.safetensors")
    )


class _Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.path}",)


def test_a_pickle_is_never_run(tmp_path: Path, loading: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(_Evil(tmp_path / "owned")))
    fails(tmp_path, 4, "evil.pt", "holds pickled objects", recipe=loading, more=weights(tmp_path / "evil.pt"))
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 8x8 images, 24 for training and 8 for test each."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for label, name in enumerate(("dark", "light")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (8, 8)) + 120 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:02}.png")
    return tmp_path / "images"


def of_images(path: Path) -> tuple[str, ...]:
    """Use images of a folder."""
    return (
        *("--set", "data.factory=pipeline.datasets.image_folder:image_folder"),
        *("--set", f"data.args={{path='{path}', color='gray'}}", "--set", "model.factory=pipeline.zoo:mlp"),
        *("--set", "model.args={}", "--set", "prune.target_macs=0.9", "--set", "train.batch_size=16"),
        *("--set", "quantize.precision='fp32'", "--set", "gate.max_accuracy_drop=100"),
    )


def test_own_images_run(tmp_path: Path, images: Path) -> None:
    """A folder of class folders goes through the whole chain."""
    done = drill.run(tmp_path / "store", tmp_path / "run", *of_images(images))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "deploy" / "labels.json").read_text().split() == ["[", '"dark",', '"light"', "]"]


def test_images_that_cannot_be_used(tmp_path: Path, images: Path) -> None:
    """A missing folder, an image cut short, an empty class."""
    fails(tmp_path, 5, "data.args.path", "there is no", more=of_images(tmp_path / "nowhere"))
    cut = images / "train" / "dark" / "03.png"
    cut.write_bytes(cut.read_bytes()[:40])
    fails(tmp_path, 5, "train/dark/03.png", "cannot be read as an image", more=of_images(images))
    for path in (images / "train" / "dark").iterdir():
        path.unlink()
    fails(tmp_path, 5, "train/dark", "holds no image", more=of_images(images))


def test_labels_out_of_range(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\nfrom pipeline.data import Dataset, Split\n"
        "def build():\n"
        "    split = Split(np.zeros((30, 1, 8, 8), np.float32), np.arange(30))\n"
        "    return Dataset(split, split, tuple('abc'))\n"
    )
    more = ("--set", f"data.factory={tmp_path}/own.py:build", "--set", "data.args={}")
    fails(tmp_path, 5, "data: train", "label 3 of sample 3 is out of range", "0 to 2", more=more)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = drill.run(tmp_path / "store", tmp_path / "run", "--debug", "--set", "seed=-1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    done = drill.espalier(["report", str(tmp_path)], tmp_path)
    assert done.returncode == 7
    assert "is not the folder of a finished run" in done.stderr


def test_help_is_quick_because_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """Neither torch nor numpy nor pydantic is loaded to print help; every exit code is in it."""
    code = "import sys\nfrom pipeline.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    heavy = "print([m for m in ('torch', 'numpy', 'pydantic', 'onnx', 'sklearn') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for number, text in EXIT_CODES:
        assert f"{number:3}  {text}" in done.stdout


def test_a_closed_pipe_is_no_fault(tmp_path: Path) -> None:
    pipe = f"{drill.ESPALIER} devices show cpu | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", pipe], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize("what", ["list", "detect", "show"])
def test_devices(tmp_path: Path, what: str) -> None:
    done = drill.espalier(["devices", what, *(["cpu"] if what == "show" else [])], tmp_path)
    assert done.returncode == 0
    assert "cpu" in done.stdout


def test_devices_alone_lists_them(tmp_path: Path) -> None:
    done = drill.espalier(["devices"], tmp_path)
    names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert sorted(names) == list(profile_names())


def test_recipes_that_ship_plan_on_every_device_they_can(tmp_path: Path) -> None:
    """`stages` works for a device that cannot be built for here."""
    for device in ("cpu", "jetson-orin-nano-8gb", "jetson-agx-orin-64gb", "rtx-4090"):
        done = drill.espalier(
            ["stages", str(RECIPES / "digits.toml"), "--device", device, "--store", str(tmp_path)], tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "would run" in done.stdout


def test_a_failed_run_says_that_the_folder_is_of_the_one_before(tmp_path: Path, drilled: tuple[Path, Path]) -> None:
    """What was there stays whole, and nobody takes it for the outcome of this run."""
    out = Path(shutil.copytree(drilled[1], tmp_path / "run"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    done = drill.run(tmp_path / "store", out, "--set", "train.learning_rate=1e30")
    assert done.returncode == ModelError.exit_code
    assert f"{out} still holds the run before this one" in done.stderr
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
