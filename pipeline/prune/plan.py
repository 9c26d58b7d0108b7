"""A pruning plan: what makes a factory's network the pruned one. JSON, replayed on the factory's network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from devices.errors import ModelError

_FORMATS = ("espalier-plan/1", "espalier-plan/2")
_MAKE_AGAIN = "Prune again"


@dataclass(frozen=True)
class Cut:
    """The indices that stay of one dimension of one parameter or buffer."""

    tensor: str
    dim: int
    size: int
    """Length of the dimension before."""
    keep: tuple[int, ...]


@dataclass(frozen=True)
class Number:
    """A whole number that a module keeps beside its tensors and computes with, such as its count of heads."""

    module: str
    """Name of the module; empty for the network itself."""
    attribute: str
    before: int
    after: int


@dataclass(frozen=True)
class PruningPlan:
    """Cuts and numbers, then blocks that are skipped; the order within each does not matter."""

    cuts: tuple[Cut, ...] = ()
    numbers: tuple[Number, ...] = ()
    blocks: tuple[str, ...] = ()
    """Modules that give back their input."""
    masked: tuple[str, ...] = ()
    """Parameters whose zeros stay zeros in training."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        cuts = [{"tensor": c.tensor, "dim": c.dim, "size": c.size, "keep": list(c.keep)} for c in self.cuts]
        numbers = [
            {"module": n.module, "attribute": n.attribute, "before": n.before, "after": n.after} for n in self.numbers
        ]
        return {
            "format": _FORMATS[-1],
            "cuts": sorted(cuts, key=lambda row: (str(row["tensor"]), row["dim"])),
            "numbers": sorted(numbers, key=lambda row: (str(row["module"]), str(row["attribute"]))),
            "blocks": sorted(self.blocks),
            "masked": sorted(self.masked),
        }

    @staticmethod
    def from_dict(raw: Any, where: str) -> PruningPlan:
        """Read back; raises `ModelError` on anything malformed."""
        if not isinstance(raw, dict) or raw.get("format") not in _FORMATS or not isinstance(raw.get("cuts"), list):
            raise ModelError(where, f"is not a pruning plan of format {_FORMATS[-1]!r}", _MAKE_AGAIN)
        cuts = tuple(_read_cut(row, where) for row in raw["cuts"])
        _require_once([(cut.tensor, cut.dim) for cut in cuts], "cuts dimension {1} of '{0}' twice", where)
        numbers = tuple(_read_number(row, where) for row in _list_of(raw, "numbers", where))
        _require_once([(item.module, item.attribute) for item in numbers], "sets '{0}.{1}' twice", where)
        names = {key: _list_of(raw, key, where) for key in ("blocks", "masked")}
        for key, found in names.items():
            if not all(isinstance(name, str) for name in found) or len(set(found)) < len(found):
                raise ModelError(where, f"has malformed '{key}'", _MAKE_AGAIN)
        return PruningPlan(cuts, numbers, tuple(names["blocks"]), tuple(names["masked"]))


def compose_plans(first: PruningPlan, second: PruningPlan) -> PruningPlan:
    """One plan for the factory's network that does what `first`, then `second` on its result, do.

    Raises `ModelError` when `second` does not continue `first`.
    """
    cuts = {(cut.tensor, cut.dim): cut for cut in first.cuts}
    for later in second.cuts:
        before = cuts.get((later.tensor, later.dim))
        if before is None:
            cuts[later.tensor, later.dim] = later
            continue
        if len(before.keep) != later.size:
            raise ModelError(
                "pruning plan",
                f"dimension {later.dim} of '{later.tensor}' has {len(before.keep)} left, and the next step "
                f"wants {later.size}",
                _MAKE_AGAIN,
            )
        keep = tuple(before.keep[index] for index in later.keep)
        cuts[later.tensor, later.dim] = Cut(before.tensor, before.dim, before.size, keep)
    numbers = {(item.module, item.attribute): item for item in first.numbers}
    for item in second.numbers:
        older = numbers.get((item.module, item.attribute), item)
        numbers[item.module, item.attribute] = Number(item.module, item.attribute, older.before, item.after)
    blocks = tuple(sorted({*first.blocks, *second.blocks}))
    masked = tuple(sorted({*first.masked, *second.masked}))
    return PruningPlan(tuple(cuts.values()), tuple(numbers.values()), blocks, masked)


def _list_of(raw: dict[str, Any], key: str, where: str) -> list[Any]:
    found = raw.get(key, [])
    if not isinstance(found, list):
        raise ModelError(where, f"has malformed '{key}'", _MAKE_AGAIN)
    return found


def _require_once(keys: list[tuple[object, object]], text: str, where: str) -> None:
    seen: set[tuple[object, object]] = set()
    for key in keys:
        if key in seen:
            raise ModelError(where, text.format(*key), _MAKE_AGAIN)
        seen.add(key)


def _read_cut(row: Any, where: str) -> Cut:
    whole = isinstance(row, dict) and type(row.get("dim")) is int and type(row.get("size")) is int
    if not whole or not isinstance(row.get("tensor"), str) or not isinstance(row.get("keep"), list):
        raise ModelError(where, f"has a malformed cut {row!r:.80}", _MAKE_AGAIN)
    keep, size = row["keep"], row["size"]
    ascending = all(type(index) is int for index in keep) and keep == sorted(set(keep))
    if not keep or not ascending or keep[0] < 0 or keep[-1] >= size or not 0 <= row["dim"] < 8:
        what = f"has a cut of '{row['tensor']}' whose indices do not fit its size {size}"
        raise ModelError(where, what, _MAKE_AGAIN)
    return Cut(row["tensor"], row["dim"], size, tuple(keep))


def _read_number(row: Any, where: str) -> Number:
    keys = {"module": str, "attribute": str, "before": int, "after": int}
    if not isinstance(row, dict) or any(type(row.get(key)) is not kind for key, kind in keys.items()):
        raise ModelError(where, f"has a malformed number {row!r:.80}", _MAKE_AGAIN)
    if not 0 < row["after"] <= row["before"] or not row["attribute"].isidentifier():
        raise ModelError(where, f"sets '{row['module']}.{row['attribute']}' to {row['after']}", _MAKE_AGAIN)
    return Number(row["module"], row["attribute"], row["before"], row["after"])
