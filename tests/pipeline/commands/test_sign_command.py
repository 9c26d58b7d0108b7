"""keygen, sign and verify as a release engineer uses them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from devices.bundle import write_manifest
from devices.errors import BundleError
from devices.trust.envelope import SIGNATURE_FILE
from pipeline.cli import main
from tests.devices.trust.signers import make_other_key


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with its two bundles."""
    for kind, name in (("deploy", "engine.onnx"), ("evidence", "report.json")):
        folder = tmp_path / "run" / kind
        folder.mkdir(parents=True)
        (folder / name).write_text("{}")
        write_manifest(folder, kind, {"name": "mine"})
    return tmp_path / "run"


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["keygen", str(tmp_path / "keys" / "release")]) == 0
    assert "keep it secret" in capsys.readouterr().out
    return tmp_path / "keys" / "release.key"


def test_a_run_is_signed_and_verified(run: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(run), "--allow-unsigned"]) == 0
    assert capsys.readouterr().out.count("not signed") == 2
    assert main(["sign", str(run), "--key", str(key)]) == 0
    assert capsys.readouterr().out.count("signed  ") == 2
    for trust in (["--trust", str(key.with_name("release.trust.toml"))], ["--key", str(key.with_suffix(".pub"))]):
        assert main(["verify", str(run), *trust]) == 0
        assert capsys.readouterr().out.count("signed by release") == 2
    assert main(["verify", str(run / "deploy"), "--allow-unsigned"]) == 0
    assert "was not looked at" in capsys.readouterr().out


def test_the_file_of_trust_may_stand_in_the_environment(
    run: Path, key: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sign", str(run), "--key", str(key)])
    monkeypatch.setenv("ESPALIER_TRUST", str(key.with_name("release.trust.toml")))
    assert main(["verify", str(run)]) == 0
    assert "signed by release" in capsys.readouterr().out


def refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(words) == BundleError.exit_code
    message = capsys.readouterr().err
    assert said in message
    assert message.startswith("espalier: bundle error: ")
    assert message.count("\n") == 1


def test_what_does_not_verify_is_refused_with_a_word(
    run: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = ["--trust", str(key.with_name("release.trust.toml"))]
    refused(["verify", str(run), *trust], "is not signed", capsys)
    main(["sign", str(run), "--key", str(key)])
    refused(["verify", str(run)], "who is trusted", capsys)
    refused(["verify", str(run), *trust, "--key", str(key)], "stands beside --trust", capsys)
    refused(["verify", str(run), "--key", str(key)], "is a private key", capsys)
    main(["keygen", str(tmp_path / "other")])
    refused(["verify", str(run), "--key", str(tmp_path / "other.pub")], "not trusted here", capsys)
    (run / "deploy" / "engine.onnx").write_text("[]")
    refused(["verify", str(run), *trust], "engine.onnx: differs from the manifest", capsys)
    refused(["sign", str(run), "--key", str(key)], "engine.onnx", capsys)


def test_mistakes_are_named(run: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["sign", str(tmp_path), "--key", str(key)], "neither a bundle nor a run", capsys)
    refused(["sign", str(run)], "must be one", capsys)
    refused(["sign", str(run), "--key", str(key.with_suffix(".pub"))], "no private key", capsys)
    refused(["keygen", str(key.with_suffix(""))], "already", capsys)
    refused(["verify", str(run), "--identity", "me@example.org"], "who vouches", capsys)
    main(["sign", str(run), "--key", str(key)])
    keyless = ["--identity", "me@example.org", "--issuer", "https://example.org"]
    refused(["verify", str(run), *keyless], "no keyless signature", capsys)
    refused(["verify", str(run), *keyless, "--allow-unsigned"], "Give one or the other", capsys)
    (run / "deploy" / SIGNATURE_FILE).unlink()
    os.mkfifo(run / "deploy" / SIGNATURE_FILE)
    refused(["verify", str(run), *keyless], "not a plain file", capsys)


@pytest.mark.parametrize("algorithm", ["RSA", "ED25519"])
def test_a_key_of_the_wrong_type_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    key = make_other_key(tmp_path, algorithm)
    refused(["sign", str(run), "--key", str(key)], "of the wrong type", capsys)
    refused(["verify", str(run), "--key", str(key.with_suffix(".pub"))], f"of the wrong type ({algorithm})", capsys)


def test_keyless_without_a_network_signs_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A proxy that is not there: nothing leaves this machine.
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    refused(["sign", str(run / "deploy"), "--keyless"], "was not signed", capsys)
    assert not (run / "deploy" / "model.sig").exists()


def test_a_copy_under_another_name_verifies_too(
    run: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sign", str(run / "deploy"), "--key", str(key)])
    shutil.copytree(run / "deploy", tmp_path / "elsewhere")
    assert main(["verify", str(tmp_path / "elsewhere"), "--key", str(key.with_suffix(".pub"))]) == 0
    assert "signed by release.pub" in capsys.readouterr().out
