"""A release: signed archives that the run's folder does not notice, whole or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from devices.archive import unpacked
from devices.bundle import MANIFEST, open_any, open_bundle
from devices.errors import BundleError, EspalierError, StorageError
from devices.trust.store import UNSIGNED, Trust, TrustedKey
from exporters.keys import make_key
from exporters.sign import SignConfig
from pipeline.cli import main
from pipeline.release.build import Product, ReleaseConfig, changelog_section, write_release
from pipeline.release.evidence import last_release, run_figures
from pipeline.release.gate import judge_release
from pipeline.release.regression import RegressionConfig
from pipeline.release.text import gate_lines
from tests import drill
from tests.pipeline.attest.resealed import change_json, reseal

CHANGES = """# Changelog

## 1.10.0

- not this

## [v1.1.0] 2026-01-01

- faster

### More

- smaller

## 1.0.0

- first
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrustedKey]:
    folder = tmp_path_factory.mktemp("keys")
    return folder / "k.key", make_key(folder, "k", None, date(2099, 1, 1))


@pytest.fixture
def config(key: tuple[Path, TrustedKey], tmp_path: Path) -> ReleaseConfig:
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    return ReleaseConfig(
        version="1.1.0",
        out=tmp_path / "dist",
        sign=SignConfig(private_key=key[0]),
        changelog=tmp_path / "CHANGELOG.md",
    )


@pytest.fixture
def product(drilled: tuple[Path, Path]) -> Product:
    evidence = open_bundle(drilled[1] / "evidence", "evidence", UNSIGNED)
    result = judge_release(run_figures(evidence), None, RegressionConfig(), new_device=False)
    return Product(deploy=open_bundle(drilled[1] / "deploy", "deploy", UNSIGNED), evidence=evidence, result=result)


def test_archives_verify_with_the_key_and_hold_the_run(
    product: Product, config: ReleaseConfig, key: tuple[Path, TrustedKey]
) -> None:
    folder = write_release([product], config)
    trust = Trust(keys=(key[1],))
    for suffix, bundle in (("", product.deploy), (".evidence", product.evidence)):
        with unpacked(folder / f"drill-1.1.0-cpu{suffix}.tar.gz") as unpacked_folder:
            assert unpacked_folder.name == f"drill-1.1.0-cpu{suffix}"
            found = open_any(unpacked_folder, trust)
            assert found.digests == bundle.digests
            assert found.signer is not None
            assert found.signer.key_id == key[1].key_id
    # The run itself was not signed, and another run of the recipe finds it as it was.
    assert not (product.deploy.folder / "model.sig").exists()
    run = run_figures(product.evidence)
    last = last_release(folder, run, trust, new=False)
    assert last is not None
    assert (last.name, last.device) == ("drill", "cpu")
    with pytest.raises(BundleError, match="said who is trusted"):
        last_release(folder, run, Trust(), new=False)


def test_a_device_that_the_last_release_does_not_have_is_accepted_by_name(
    product: Product, config: ReleaseConfig, key: tuple[Path, TrustedKey]
) -> None:
    folder, trust = write_release([product], config), Trust(keys=(key[1],))
    run = replace(run_figures(product.evidence), device="rtx-4090")
    with pytest.raises(BundleError, match=r"'drill' for 'rtx-4090', only of 'drill' for 'cpu'.*--accept rtx-4090:new"):
        last_release(folder, run, trust, new=False)
    assert last_release(folder, run, trust, new=True) is None
    # One that it has is compared all the same, and another recipe's release is none of this one's.
    assert last_release(folder, replace(run, device="cpu"), trust, new=True) is not None
    with pytest.raises(BundleError, match="of 'other' for 'rtx-4090', only of 'drill' for 'cpu'"):
        last_release(folder, replace(run, name="other"), trust, new=True)


def test_notes_hold_the_changes_the_gate_and_how_to_verify(product: Product, config: ReleaseConfig) -> None:
    notes = (write_release([product], config) / "NOTES.md").read_text()
    assert notes.startswith("# drill-1.1.0\n\n## Changes\n\n- faster\n")
    assert "- smaller" in notes
    assert "not this" not in notes
    assert "- first" not in notes
    assert "### drill on cpu: passed" in notes
    assert "sha256sum --check SHA256SUMS" in notes


@pytest.mark.parametrize(("version", "found"), [("1.1", ""), ("1.1.0", "- faster"), ("1.0.0", "- first"), ("2", "")])
def test_the_changelogs_section_is_that_of_the_version(config: ReleaseConfig, version: str, found: str) -> None:
    assert config.changelog is not None
    section = changelog_section(config.changelog, version)
    assert (found in section) if found else section == ""
    assert changelog_section(config.changelog.with_name("none"), version) == ""


def test_a_release_is_not_written_over(product: Product, config: ReleaseConfig) -> None:
    folder = write_release([product], config)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StorageError, match="is there already"):
        write_release([product], config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("version", ["", "../1", "1/2", ".1", "1 0", "v" * 65, "1\n"])
def test_a_version_that_is_no_name_is_refused(product: Product, config: ReleaseConfig, version: str) -> None:
    with pytest.raises(BundleError, match="is no version"):
        write_release([product], replace(config, version=version))
    assert not config.out.exists()


def test_a_failed_release_leaves_nothing(product: Product, config: ReleaseConfig, tmp_path: Path) -> None:
    (tmp_path / "text.key").write_text("no key")
    other = replace(product, result=replace(product.result, name="mlp"))
    failures: list[tuple[list[Product], ReleaseConfig]] = [
        ([product], replace(config, sign=SignConfig(private_key=tmp_path / "none.key"))),
        ([product], replace(config, sign=SignConfig(private_key=tmp_path / "text.key"))),
        ([product, product], config),
        ([product, other], config),
        ([replace(product, result=replace(product.result, name="../out"))], config),
        ([replace(product, result=replace(product.result, device="a/b"))], config),
    ]
    for products, wanted in failures:
        with pytest.raises(EspalierError):
            write_release(products, wanted)
        assert not config.out.exists() or not list(config.out.iterdir())


def test_a_run_that_changed_since_it_was_verified_is_not_released(
    product: Product, config: ReleaseConfig, tmp_path: Path
) -> None:
    shutil.copytree(product.deploy.folder, tmp_path / "deploy")
    deploy = open_bundle(tmp_path / "deploy", "deploy", UNSIGNED)
    (tmp_path / "deploy" / "labels.json").write_text("[]")
    for damaged in (r"labels\.json", r"manifest\.json: changed after it was verified"):
        with pytest.raises(BundleError, match=damaged):
            write_release([replace(product, deploy=deploy)], config)
        assert not list(config.out.iterdir())
        # A manifest that agrees with it again is not the one that was verified.
        (tmp_path / "deploy" / "labels.json").write_bytes(product.deploy.read("labels.json"))
        rewritten = json.loads((tmp_path / "deploy" / MANIFEST).read_text()) | {"version": "other"}
        (tmp_path / "deploy" / MANIFEST).write_text(json.dumps(rewritten))


def test_a_bundle_that_the_evidence_does_not_prove_is_not_released(
    product: Product, config: ReleaseConfig, tmp_path: Path
) -> None:
    shutil.copytree(product.deploy.folder, tmp_path / "deploy")
    (tmp_path / "deploy" / "labels.json").write_text("[]")
    reseal(tmp_path / "deploy")
    deploy = open_bundle(tmp_path / "deploy", "deploy", UNSIGNED)
    with pytest.raises(BundleError, match=r"deploy/labels\.json: this link is broken"):
        write_release([replace(product, deploy=deploy)], config)
    assert not list(config.out.iterdir())


def test_a_refused_run_is_not_released(
    drilled: tuple[Path, Path], key: tuple[Path, TrustedKey], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert drill.run(drilled[0], run, "--set", "gate.max_size_bytes=10").returncode == 10
    words = ["release", str(run), "--version", "1.0.0", "--key", str(key[0])]
    done = drill.espalier(words, cwd=tmp_path)
    assert done.returncode == 10
    assert "MISSED" in done.stdout
    assert "not released: the gate refused" in done.stderr
    assert not (tmp_path / "dist").exists()
    done = drill.espalier(["verify", str(run), "--explain", "--allow-unsigned"], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nothing ships: the gate refused" in done.stdout


def nothing_asked(manifest: Any) -> None:
    manifest["verdict"].update(budgets=[])
    manifest["recipe"]["gate"] = dict.fromkeys(manifest["recipe"]["gate"])


def test_a_run_of_which_nothing_was_asked_is_not_released(
    drilled: tuple[Path, Path], key: tuple[Path, TrustedKey], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, dist = tmp_path / "run", tmp_path / "dist"
    shutil.copytree(drilled[1], run)
    change_json(run / "evidence" / MANIFEST, nothing_asked)
    words = ["release", str(run), "--version", "1.0.0", "--key", str(key[0]), "--out", str(dist)]
    assert main(words) == 10
    said = capsys.readouterr()
    assert "gate: nothing was asked, so nothing is proven" in said.out
    assert "not released: nothing was asked, so nothing is proven" in said.err
    assert "[gate]" in said.err
    assert "--baseline" in said.err
    assert not dist.exists()


def test_the_gate_reads_what_would_ship_and_holds_signatures_to_their_word(
    drilled: tuple[Path, Path],
    key: tuple[Path, TrustedKey],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, trust = tmp_path / "run", ["--trust", str(key[0].with_suffix(".trust.toml"))]
    shutil.copytree(drilled[1], run)
    # Not signed yet: it is this machine's own.
    assert main(["gate", str(run), *trust]) == 0
    assert main(["sign", str(run), "--key", str(key[0])]) == 0
    assert main(["gate", str(run), *trust]) == 0
    labels = run / "evidence" / "sets" / "labels.npy"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    reseal(run / "evidence")
    assert main(["gate", str(run), *trust]) == BundleError.exit_code
    assert "not the one that was signed" in capsys.readouterr().err
    shutil.rmtree(run / "evidence")
    shutil.copytree(drilled[1] / "evidence", run / "evidence")
    (run / "deploy" / "labels.json").write_text("[]")
    assert main(["gate", str(run)]) == BundleError.exit_code
    assert "labels.json: differs from the manifest" in capsys.readouterr().err
    shutil.rmtree(run / "deploy")
    assert main(["gate", str(run)]) == BundleError.exit_code
    assert "is missing, and it is what would ship" in capsys.readouterr().err


def test_without_budgets_and_a_last_release_nothing_is_proven(product: Product) -> None:
    result = replace(product.result, budgets=(), regressions=())
    assert gate_lines(result)[-1] == "gate: nothing was asked, so nothing is proven"
