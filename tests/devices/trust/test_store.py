"""The file of trust: what it says, and every mistake by its place."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

import pytest

from devices.errors import BundleError
from devices.trust.store import read_trust, trust_in_key
from tests.devices.trust.signers import make_authority, make_key, make_other_key


@pytest.fixture
def place(tmp_path: Path, keys: Path) -> Path:
    for name in ("ours.pub", "ours.key", "theirs.pub"):
        shutil.copy(keys / name, tmp_path / name)
    return tmp_path


def written(place: Path, text: str) -> Path:
    path = place / "trust.toml"
    path.write_text(text)
    return path


def seconds(*day: int) -> float:
    return datetime(*day, tzinfo=timezone.utc).timestamp()  # type: ignore[arg-type, misc]


def test_keys_certificates_and_revocations_are_read(place: Path) -> None:
    authority = make_authority(place / "house")
    revocations = authority.take_back()
    trust = read_trust(
        written(
            place,
            f"""
issued = 2026-11-01
[[keys]]
name = "2026"
public_key = "ours.pub"
not_before = 2026-01-01
not_after = 2027-01-01T12:00:00+02:00
[[keys]]
name = "2027"
public_key = "theirs.pub"
[[certificates]]
name = "house"
roots = "house/{authority.roots.name}"
subjects = ["CN=release"]
revocations = "house/{revocations.name}"
[[revoked]]
key_id = "{"0" * 64}"
reason = "lost"
""",
        )
    )
    assert trust.names == ("2026", "2027", "house")
    assert trust.issued_s == seconds(2026, 11, 1)
    first, second = trust.keys
    assert (first.lifetime.not_before_s, first.lifetime.not_after_s) == (seconds(2026, 1, 1), seconds(2027, 1, 1, 10))
    assert (second.lifetime.not_before_s, second.lifetime.not_after_s) == (None, None)
    assert first.key_id == trust_in_key(place / "ours.pub").keys[0].key_id != second.key_id
    assert trust.roots[0].subjects == ("CN=release",)
    assert trust.roots[0].revocations_pem == revocations.read_text()
    assert trust.revoked == (("0" * 64, "lost"),)
    assert not trust.allow_unsigned
    assert not trust.allow_unknown_clock


KEY = '[[keys]]\nname = "a"\npublic_key = "ours.pub"\n'
ISSUED = "issued = 2026-11-01\n"
ROOT = "[[certificates]]\nname = 'a'\nroots = 'ours.pub'\n"


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        (KEY, "issued", "is missing"),
        ("issued = 5\n" + KEY, "issued", "must be a date"),
        (ISSUED, "trust.toml", "trusts nobody"),
        (ISSUED + "[keys]\nname = 'a'\n", "keys", "must be tables"),
        (ISSUED + "keys = [1]\n", "keys", "must be tables"),
        (ISSUED + "[[key]]\n", "key", "Did you mean 'keys'"),
        (ISSUED + KEY + "until = 2027-01-01\n", "keys[0]: until", "is not a key"),
        (ISSUED + KEY + "not_after = '2027'\n", "not_after", "must be a date"),
        (ISSUED + KEY + "not_before = 2027-01-01\nnot_after = 2026-01-01\n", "not_after", "before not_before"),
        (ISSUED + KEY + KEY, "name", "stands twice"),
        (ISSUED + "[[keys]]\npublic_key = 'ours.pub'\n", "keys[0]: name", "must be a text"),
        (ISSUED + "[[keys]]\nname = 'a'\npublic_key = 'gone.pub'\n", "gone.pub", "cannot be read"),
        (ISSUED + "[[keys]]\nname = 'a'\npublic_key = 'ours.key'\n", "ours.key", "is a private key"),
        (ISSUED + "[[keys]]\nname = 'a'\npublic_key = 'trust.toml'\n", "trust.toml", "is no public key"),
        (ISSUED + "[[certificates]]\nname = 'a'\nroots = 'ours.pub'\n", "subjects", "must be a list"),
        (ISSUED + ROOT + "subjects = ['']\n", "subjects", "must be a list"),
        (ISSUED + ROOT + "subjects = [1]\n", "subjects", "must be a list"),
        (ISSUED + "[[certificates]]\nname = 'a'\nroots = 'letter'\nsubjects = ['CN=a']\n", "letter", "is not in PEM"),
        (ISSUED + KEY + "[[revoked]]\nkey_id = 'xyz'\nreason = 'lost'\n", "key_id", "is no SHA-256"),
        (ISSUED + KEY + f"[[revoked]]\nkey_id = '{'0' * 64}'\n", "reason", "must be a text"),
        ("issued = [", "trust.toml", "is not valid TOML"),
    ],
)
def test_a_mistake_is_named(place: Path, text: str, where: str, said: str) -> None:
    (place / "letter").write_text("Grüße", encoding="utf-8")
    with pytest.raises(BundleError) as caught:
        read_trust(written(place, text))
    assert where in caught.value.where
    assert said in f"{caught.value.what} {caught.value.fix}"


@pytest.mark.parametrize("kind", ["RSA", "ED25519", "secp256k1"])
def test_a_key_of_the_wrong_type_is_named(tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path, kind, kind) if kind == "secp256k1" else make_other_key(tmp_path, kind)
    with pytest.raises(BundleError) as caught:
        trust_in_key(key.with_suffix(".pub"))
    assert f"{kind}.pub" in caught.value.where
    assert f"wrong type ({kind})" in caught.value.what
    assert "P-256" in caught.value.what
    assert "espalier keygen" in caught.value.fix


def test_a_file_of_trust_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        read_trust(tmp_path / "trust.toml")
