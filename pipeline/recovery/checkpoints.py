"""Checkpoints of a fit: what it needs to go on exactly, written after each epoch. No pickle."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from devices.errors import StorageError
from devices.files import digest_bytes, digest_value, read_json, write_atomic, write_json

_FORMAT = "espalier-checkpoint/1"
_NAME = re.compile(r"epoch-(\d{6})\.json")
_PARTS = ("weights", "training")
# The one before is what a damaged one falls back to.
_KEPT = 2


@dataclass(frozen=True)
class Saved:
    """One checkpoint."""

    epoch: int
    weights: Mapping[str, torch.Tensor]
    """The network's own tensors, named as in its state dict."""
    training: Mapping[str, torch.Tensor]
    """Everything else that is a tensor."""
    history: Mapping[str, Any]
    """JSON values."""


class Checkpoints:
    """A folder with the checkpoints of one fit: `epoch-N.json`, `.weights.safetensors`, `.training.safetensors`."""

    def __init__(self, folder: Path, key: str) -> None:
        """`key` tells the fit from others: checkpoints of another key are as good as none."""
        self._folder = folder
        self._key = key
        self.last_epoch = 0

    def save(self, saved: Saved) -> None:
        """Write a checkpoint, atomically, and remove all but it and the one before. Raises `StorageError`."""
        from safetensors.torch import save

        digests = {}
        for part in _PARTS:
            content = save(dict(getattr(saved, part)))
            write_atomic(self._part(saved.epoch, part), content)
            digests[part] = digest_bytes(content)
        index = {"format": _FORMAT, "key": self._key, "digests": digests, "history": dict(saved.history)}
        # Last: without it there is no checkpoint, so a kill in between leaves the one before.
        write_json(self._index(saved.epoch), index | {"digest": digest_value(index)})
        self.last_epoch = saved.epoch
        for epoch in self._epochs():
            # Later ones were damaged or another fit's, and this one would never be found behind them.
            if not 0 <= saved.epoch - epoch < _KEPT:
                self._remove(epoch)

    def load(self) -> Saved | None:
        """The last sound checkpoint of this key; None when there is none."""
        for epoch in self._epochs():
            saved = self._read(epoch)
            if saved is not None:
                self.last_epoch = epoch
                return saved
        return None

    def clear_remains(self) -> None:
        """Remove what a killed write left behind."""
        for path in self._folder.glob(".epoch-*"):
            with contextlib.suppress(OSError):
                path.unlink()

    @property
    def kept(self) -> str:
        """Where the last good state is, in words."""
        if not self.last_epoch:
            return "No epoch had ended, so nothing is kept"
        return f"The state after epoch {self.last_epoch} is kept in {self._part(self.last_epoch, 'weights')}"

    def _read(self, epoch: int) -> Saved | None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            index = read_json(self._index(epoch), StorageError)
            digest = index.pop("digest")
            sound = digest == digest_value(index) and index["format"] == _FORMAT and index["key"] == self._key
            if not sound:
                return None
            parts = {}
            for part in _PARTS:
                content = self._part(epoch, part).read_bytes()
                if digest_bytes(content) != index["digests"][part]:
                    return None
                parts[part] = load(content)
        # Whatever is wrong with it, the fit can begin before it.
        except (OSError, StorageError, ValueError, LookupError, TypeError, AttributeError, SafetensorError):
            return None
        return Saved(epoch, parts["weights"], parts["training"], index["history"])

    def _epochs(self) -> list[int]:
        """Epochs with a checkpoint, the last first."""
        if not self._folder.is_dir():
            return []
        found = [_NAME.fullmatch(path.name) for path in self._folder.iterdir()]
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _remove(self, epoch: int) -> None:
        # The index first: a kill in between must not leave an index of files that are gone.
        for path in (self._index(epoch), *(self._part(epoch, part) for part in _PARTS)):
            with contextlib.suppress(OSError):
                path.unlink()

    def _index(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch:06}.json"

    def _part(self, epoch: int, part: str) -> Path:
        return self._folder / f"epoch-{epoch:06}.{part}.safetensors"
