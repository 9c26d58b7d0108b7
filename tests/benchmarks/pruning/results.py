"""What was found so far, one JSON file: a run that was killed goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices.errors import EspalierError
from devices.files import canonical_json, read_json, write_json


class Results:
    """Values by key; each is kept with the settings that it was found under, and found anew when they change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Any] = read_json(path, EspalierError) if path.exists() else {}

    def get(self, key: str, settings: object) -> Any:
        """The value found under these settings, or None."""
        entry = self._entries.get(key)
        # Compared as JSON, because tuples come back as lists.
        if entry is None or canonical_json(entry["settings"]) != canonical_json(settings):
            return None
        return entry["value"]

    def put(self, key: str, settings: object, value: object) -> None:
        """Keep a value, on disk at once."""
        self._entries[key] = {"settings": settings, "value": value}
        write_json(self._path, self._entries)

    def once(self, key: str, settings: object, find: Callable[[], object]) -> Any:
        """The value found before, or found and kept now."""
        found = self.get(key, settings)
        if found is None:
            print(f"{key} ...", flush=True)
            self.put(key, settings, find())
            found = self.get(key, settings)
        return found

    def under(self, prefix: str) -> dict[str, Any]:
        """All values whose keys begin so, by the rest of the key."""
        return {
            key.removeprefix(prefix): entry["value"] for key, entry in self._entries.items() if key.startswith(prefix)
        }
