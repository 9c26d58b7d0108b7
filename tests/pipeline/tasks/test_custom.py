"""A custom task: the user's callables are called as promised, and what is wrong with them is said in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from devices.errors import RecipeError
from pipeline.recipe import TaskConfig
from pipeline.tasks.custom import Custom
from pipeline.tasks.fingerprint import task_fingerprint
from pipeline.tasks.select import task_of

USER = """
import numpy as np

def loss(outputs, targets):
    numbers, shift = outputs
    return ((numbers[:, 0] + shift[:, 0] - targets) ** 2).mean()

def score(outputs, targets):
    assert isinstance(outputs, tuple) and isinstance(targets, np.ndarray)
    return np.abs(outputs[0][:, 0] - targets) < 0.5

def compare(reference, candidate):
    return np.mean(np.abs(reference[0] - candidate[0]) < 0.5)

def each(outputs, targets):
    return outputs[0]

def number(outputs, targets):
    return 3.0

def wide(outputs, targets):
    return outputs[0] * 2

def raising(outputs, targets):
    raise ValueError("boxes and\\nlabels differ")

def high(reference, candidate):
    return 1.5

def nothing(reference, candidate):
    return float("nan")
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of callables."""
    path = tmp_path_factory.mktemp("user") / "own.py"
    path.write_text(USER)
    return path


def custom(user: Path, **names: str) -> Custom:
    given = {"loss": "loss", "score": "score", "compare": "compare"} | names
    task = task_of(TaskConfig(kind="custom", **{name: f"{user}:{called}" for name, called in given.items()}))
    assert isinstance(task, Custom)
    return task


def outputs(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(count).float()[:, None], torch.zeros(count, 1)


def test_the_users_callables_decide(user: Path) -> None:
    task, targets = custom(user), torch.tensor([0.0, 1.0, 4.0, 3.0])
    assert float(task.loss(outputs(), targets)) == 1
    assert task.sample_losses(outputs(), targets).tolist() == [0, 0, 4, 0]
    found = task.score(outputs(), targets)
    assert (found.dtype, found.tolist()) == (np.float64, [1, 1, 0, 1])
    assert float(task.metric(outputs(), targets)) == 0.75
    rows = tuple(part.numpy() for part in outputs())
    assert task.agreement is not None
    assert task.agreement(rows, (rows[0] + [[0], [0], [0], [1]], rows[1])) == 0.75
    assert task.scoring.kind == "custom"
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301


def test_without_a_comparison_there_is_none(user: Path) -> None:
    names = {name: f"{user}:{name}" for name in ("loss", "score")}
    assert task_of(TaskConfig(kind="custom", **names)).agreement is None


@pytest.mark.parametrize(
    ("names", "call", "says"),
    [
        ({"loss": "each"}, "loss", "task.loss: returns shape (4, 1). It must return the mean loss of the batch"),
        ({"loss": "number"}, "loss", "task.loss: returns 3.0."),
        ({"loss": "raising"}, "loss", "task.loss: 'raising' raised ValueError: boxes and labels differ (/"),
        ({"score": "each"}, "score", "task.score: returns shape (4, 1) for 4 samples"),
        ({"score": "number"}, "score", "task.score: returns 3.0 for 4 samples"),
        ({"score": "raising"}, "score", "task.score: 'raising' raised ValueError"),
        ({"compare": "high"}, "compare", "task.compare: returns 1.5. It must return one number from 0 to 1"),
        ({"compare": "nothing"}, "compare", "task.compare: returns nan"),
    ],
)
def test_what_a_callable_does_wrong_is_said(user: Path, names: dict[str, str], call: str, says: str) -> None:
    task, targets = custom(user, **names), torch.zeros(4)
    rows = tuple(part.numpy() for part in outputs())
    calls: dict[str, Any] = {
        "loss": lambda: task.loss(outputs(), targets),
        "score": lambda: task.score(outputs(), targets),
        "compare": lambda: task.agreement and task.agreement(rows, rows),
    }
    with pytest.raises(RecipeError) as refused:
        calls[call]()
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def test_scores_out_of_range_are_refused(user: Path) -> None:
    user.with_name("far.py").write_text("def score(outputs, targets):\n    return outputs[0][:, 0]\n")
    task = custom(user)
    far = Custom(task.config.model_copy(update={"score": f"{user.with_name('far.py')}:score"}))
    with pytest.raises(RecipeError, match=r"task.score: goes from 0.0 to 3.0"):
        far.score(outputs(), torch.zeros(4))


def test_a_callable_that_is_not_there_is_named_before_anything_runs(user: Path) -> None:
    with pytest.raises(RecipeError, match=r"task.score: .* has no callable 'scores'"):
        custom(user, score="scores")


def test_the_code_of_the_callables_decides_the_key(user: Path) -> None:
    config = custom(user).config
    first = task_fingerprint(config)
    assert task_fingerprint(config) == first
    assert str(user) not in str(first)
    copy = user.with_name("changed.py")
    copy.write_text(USER.replace("< 0.5", "< 0.25"))
    changed = TaskConfig(kind="custom", **{name: f"{copy}:{name}" for name in ("loss", "score", "compare")})
    assert task_fingerprint(changed)["score"] != first["score"]
    assert task_fingerprint(TaskConfig()) == TaskConfig().model_dump(mode="json")


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"kind": "custom", "loss": "a:b"}, "task.kind 'custom' needs task.score"),
        ({"kind": "segmentation", "loss": "a:b"}, "task.loss is of kind 'custom', not 'segmentation'"),
        ({"outputs": ["logits"]}, "task.outputs is of kind 'custom', not 'classification'"),
        ({"ignore_label": 0}, "task.ignore_label is of kind 'segmentation'"),
        ({"kind": "custom", "loss": "a:b", "score": "a:c", "outputs": ["x", "x"]}, "names an output twice"),
        ({"kind": "segmentation", "ignore_label": -1}, "greater than or equal to 0"),
    ],
)
def test_sections_that_contradict_themselves(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TaskConfig.model_validate_json(json.dumps(section))
