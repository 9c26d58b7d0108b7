"""Which run of the last release a run is set against, where that is a release, a run, or an archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.errors import BundleError
from devices.trust.store import UNSIGNED
from exporters.archive import write_archive
from pipeline.release.evidence import last_release, last_releases
from tests.pipeline.release.evidence_parts import Contents, write_evidence
from tests.pipeline.release.figures import figures


def release(folder: Path, *devices: str, name: str = "small") -> Path:
    """The folder of a release: an archive of evidence for each device, and one of what shipped."""
    folder.mkdir()
    for device in devices:

        def change(content: Contents, device: str = device) -> None:
            content["manifest"].update(name=name, device=device)

        bundle = write_evidence(folder.parent / f"of {device}", change)
        write_archive(bundle, folder / f"{name}-1.0-{device}.evidence.tar.gz", f"{name}-1.0-{device}")
    (folder / f"{name}-1.0-cpu.tar.gz").write_bytes(b"of the device")
    return folder


def test_a_release_is_read_device_by_device(tmp_path: Path) -> None:
    place = release(tmp_path / "dist", "kitchen", "attic")
    found = last_releases(place, UNSIGNED)
    assert [run.device for run in found] == ["attic", "kitchen"]
    assert [run.folder for run in found] == [str(place / f"small-1.0-{run.device}.evidence.tar.gz") for run in found]
    run = last_release(place, figures(name="small", device="kitchen"), UNSIGNED, new=True)
    assert run is not None
    assert run.device == "kitchen"


def test_a_device_that_a_release_lacks_is_new_or_refused(tmp_path: Path) -> None:
    place, run = release(tmp_path / "dist", "kitchen", "attic"), figures(name="small", device="cellar")
    assert last_release(place, run, UNSIGNED, new=True) is None
    with pytest.raises(BundleError) as caught:
        last_release(place, run, UNSIGNED, new=False)
    told = "holds no evidence of 'small' for 'cellar', only of 'small' for 'attic', of 'small' for 'kitchen'"
    assert (caught.value.where, caught.value.what) == (str(place), told)
    assert caught.value.fix.endswith("if it is a new device, --accept cellar:new")


def test_the_release_of_another_recipe_has_no_new_devices(tmp_path: Path) -> None:
    place, run = release(tmp_path / "dist", "kitchen", name="other"), figures(name="small", device="cellar")
    with pytest.raises(BundleError) as caught:
        last_release(place, run, UNSIGNED, new=True)
    assert caught.value.fix == "Give --baseline the last release of this recipe, with that device"


@pytest.mark.parametrize("archived", [False, True])
def test_a_run_may_be_given_in_place_of_a_release(tmp_path: Path, archived: bool) -> None:
    """Even of another device: the comparison says what it is of."""
    place = write_evidence(tmp_path / "bundle")
    if archived:
        write_archive(place, tmp_path / "small.evidence.tar.gz", "small")
        place = tmp_path / "small.evidence.tar.gz"
    for device in ("cpu", "cellar"):
        found = last_release(place, figures(name="small", device=device), UNSIGNED, new=False)
        assert found is not None
        assert (found.device, found.folder) == ("cpu", str(place))
    assert [run.folder for run in last_releases(place, UNSIGNED)] == [str(place)]
    assert last_release(place, figures(name="small", device="cellar"), UNSIGNED, new=True) is None
