"""What the tests of signatures share: a moment, and how a signature is refused."""

from __future__ import annotations

import pytest

from devices.errors import BundleError
from devices.trust.store import Trust
from devices.trust.verify import verify_signature

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


def refused(content: bytes, trust: Trust, now_s: float = NOW_S) -> str:
    with pytest.raises(BundleError) as caught:
        verify_signature(content, "model.sig", trust, now_s)
    assert caught.value.where.startswith("model.sig")
    assert caught.value.fix
    assert str(caught.value).isprintable()
    return str(caught.value)
