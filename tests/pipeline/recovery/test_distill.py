"""Distillation: the loss is what the papers say, features are mapped where widths differ, and the teacher stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from devices.errors import ModelError, RecipeError
from pipeline.recipe import DistillConfig
from pipeline.recovery.distill import Distillation, Teaching, softened_divergence
from tests.pipeline.recovery.examples import ADVERSARIAL, accuracy, few, fresh, same_bits, state, train


@given(st.integers(1, 4), st.integers(2, 6), st.floats(0.5, 10), st.booleans(), st.integers(0, 99))
def test_the_divergence_is_the_written_out_sum(count: int, classes: int, warmth: float, dense: bool, seed: int) -> None:
    """In double precision by the definition: T² · mean of Σ p log(p / q); single precision differs by rounding."""
    rng = np.random.default_rng(seed)
    shape = (count, classes, 2, 3) if dense else (count, classes)
    ours, theirs = rng.normal(size=shape) * 3, rng.normal(size=shape) * 3

    def softened(logits: np.ndarray) -> np.ndarray:
        raised = np.exp((logits - logits.max(axis=1, keepdims=True)) / warmth)
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    q, p = softened(ours), softened(theirs)
    expected = warmth**2 * (p * np.log(p / q)).sum(axis=1).mean()
    found = softened_divergence(torch.tensor(ours).float(), torch.tensor(theirs).float(), warmth)
    assert float(found) == pytest.approx(expected, rel=1e-3, abs=1e-5 * warmth**2)
    assert float(softened_divergence(torch.tensor(ours), torch.tensor(ours), warmth)) == pytest.approx(0, abs=1e-6)


def taught() -> nn.Module:
    """A network that knows the digits, wider than the student."""
    teacher = fresh(channels=16)
    train(teacher, split=few(800), epochs=10, batch_size=32)
    return teacher


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    return taught()


def test_a_student_learns_from_answers_alone(teacher: nn.Module) -> None:
    """Labels are of no use, being wrong; answers and features are."""
    split = few(800)
    split.labels[:] = 0
    before = state(teacher)
    student = fresh()
    train(
        student,
        split=split,
        epochs=10,
        batch_size=32,
        teacher=teacher.train(),
        distill=DistillConfig(weight=1.0, features=("bn", "blocks.*.bn1")),
    )
    assert accuracy(student) > 0.7
    assert same_bits(state(teacher), before)
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module._forward_hooks for network in (student, teacher) for module in network.modules())
    teacher.eval()


@torch.no_grad()
def features(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Outputs of the block, one row a pixel."""
    seen: list[torch.Tensor] = []
    hook = network.get_submodule("blocks.0").register_forward_hook(lambda _m, _i, out: seen.append(out))
    network(images)
    hook.remove()
    return seen[0].movedim(1, -1).flatten(0, -2)


def test_features_are_followed_through_a_learned_map(teacher: nn.Module) -> None:
    """The distance falls, and only when it counts."""
    distances = []
    for weight in (0.0, 3.0):
        student = fresh()
        distill = DistillConfig(weight=0.01, features=("blocks.0",), feature_weight=weight)
        split = few(400)
        train(student, split=split, epochs=6, batch_size=32, learning_rate=0.05, teacher=teacher, distill=distill)
        images = torch.from_numpy(few(400).images)
        ours, theirs = features(student, images), features(teacher, images)
        # The best linear map that there is, so that the map of the training does not matter.
        solved = torch.linalg.lstsq(ours, theirs).solution
        distances.append(float((ours @ solved - theirs).pow(2).mean()))
    assert distances[1] < 0.9 * distances[0]


def test_the_loss_is_the_weighted_sum() -> None:
    """By hand, where features agree in width and no map is learned."""
    student, teacher = fresh(), fresh().eval()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.1)
    config = DistillConfig(weight=0.3, temperature=2.0, features=("stem", "classifier"), feature_weight=0.5)
    images = torch.from_numpy(few(8).images)
    distillation = Distillation(student, Teaching(teacher=teacher, config=config), images)
    with distillation.watching(student), torch.no_grad():
        outputs = student(images)
        found = distillation.loss(outputs, torch.tensor(7.0), images, torch.zeros(8, dtype=torch.long))
    with torch.no_grad():
        answers = teacher(images)
        ours, theirs = student.get_submodule("stem")(images), teacher.get_submodule("stem")(images)
    stems = (ours - theirs).pow(2).mean() / theirs.pow(2).mean()
    distance = (stems + (outputs - answers).pow(2).mean() / answers.pow(2).mean()) / 2
    expected = 0.7 * 7 + 0.3 * softened_divergence(outputs, answers, 2.0) + 0.5 * distance
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert not distillation.maps


def test_the_student_sees_adversarial_images_and_the_teacher_clean_ones(teacher: nn.Module) -> None:
    seen: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    student, split = fresh(), few(40)
    hooks = [
        student.register_forward_pre_hook(lambda _m, inputs: seen["student"].append(inputs[0].detach().clone())),
        teacher.register_forward_pre_hook(lambda _m, inputs: seen["teacher"].append(inputs[0].detach().clone())),
    ]
    train(student, ADVERSARIAL, split, epochs=1, batch_size=40, teacher=teacher, distill=DistillConfig())
    for hook in hooks:
        hook.remove()
    clean, shown = seen["teacher"][-1], seen["student"][-1]
    assert sorted(map(bytes, clean.numpy())) == sorted(map(bytes, split.images))
    change = (shown - clean).abs().amax(dim=(1, 2, 3))
    assert bool((change > 0.05).all())
    assert bool((change <= ADVERSARIAL.epsilon + 1e-6).all())


class Tokens(nn.Module):
    """Features (N, T, C), as in a transformer, a second answer beside them, and the linear head on top."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.pair = Pair()
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens, _ = self.pair(self.embed(x[:, 0]))
        return self.head(tokens.mean(1))  # type: ignore[no-any-return]


class Pair(nn.Module):
    """Gives a tuple."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x.relu(), "more"


def test_tokens_and_tuples_are_followed_too() -> None:
    torch.manual_seed(0)
    student, teacher = Tokens(4), Tokens(6)
    teaching = Teaching(teacher=teacher, config=DistillConfig(features=("embed", "pair")))
    distillation = Distillation(student, teaching, torch.zeros(1, 1, 8, 8))
    assert [(item.in_features, item.out_features) for item in distillation.maps.children()] == [(4, 6), (4, 6)]
    report = train(student, teacher=teacher, distill=DistillConfig(features=("embed", "pair")))
    assert report.epochs_run == 2


class Texts(nn.Module):
    """Gives no tensor from one of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.word = Word()
        self.unused = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.word(x)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class Word(nn.Module):
    """Gives a text."""

    def forward(self, x: torch.Tensor) -> str:
        return "word"


@pytest.mark.parametrize(
    ("student", "teacher", "pattern", "says"),
    [
        (fresh, fresh, "block.*", r"distill.features: 'block.\*' matches no module. The nearest is 'blocks.0'"),
        (Texts, Texts, "word", "module 'word' of the student gives no tensor"),
        (Texts, Texts, "unused", "module 'unused' of the student gives no tensor"),
        (
            fresh,
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
            "stem",
            "the dense network has no module 'stem'",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)),
            lambda: nn.Sequential(nn.Conv2d(1, 8, 5), nn.Flatten(), nn.Linear(128, 10)),
            "0",
            r"'0' gives \(32, 4, 6, 6\) in the student and \(32, 8, 4, 4\) in the dense network: more than a width",
        ),
    ],
)
def test_globs_of_no_use_are_refused(student: object, teacher: object, pattern: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        train(student(), teacher=teacher(), distill=DistillConfig(features=(pattern,)))  # type: ignore[operator]


def test_answers_that_do_not_fit_are_refused() -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ModelError, match=r"the network answers \(50, 10\), the dense network \(50, 3\)"):
        train(fresh(), teacher=other, distill=DistillConfig())


def test_the_map_is_no_part_of_the_network(teacher: nn.Module) -> None:
    student = fresh()
    names = set(student.state_dict())
    train(student, teacher=teacher, distill=DistillConfig(features=("bn",)), ema_decay=0.9)
    assert set(student.state_dict()) == names
