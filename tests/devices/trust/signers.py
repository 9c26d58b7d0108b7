"""Keys, certificates and signatures of the tests: made by `openssl` and signed by OpenSSF model-signing itself."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from model_signing import hashing, signing

_LEAF = "[leaf]\nkeyUsage=critical,digitalSignature\n[other]\nkeyUsage=critical,keyAgreement\n"
_CA = "[ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
_CONFIG = f"""[req]
distinguished_name=name
[name]
{_CA}{_LEAF}[authority]
database=index.txt
serial=serial
default_md=sha256
default_crl_days=3650
policy=anybody
[anybody]
commonName=supplied
"""


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_key(folder: Path, name: str, curve: str = "prime256v1") -> Path:
    """`NAME.key` and `NAME.pub`; returns the first."""
    openssl(folder, "ecparam", "-name", curve, "-genkey", "-noout", "-out", f"{name}.key")
    openssl(folder, "ec", "-in", f"{name}.key", "-pubout", "-out", f"{name}.pub")
    return folder / f"{name}.key"


def make_other_key(folder: Path, algorithm: str) -> Path:
    """`ALGORITHM.key` and `ALGORITHM.pub`, of a type that no bundle is signed with; returns the first."""
    openssl(folder, "genpkey", "-algorithm", algorithm, "-out", f"{algorithm}.key")
    openssl(folder, "pkey", "-in", f"{algorithm}.key", "-pubout", "-out", f"{algorithm}.pub")
    return folder / f"{algorithm}.key"


@dataclass(frozen=True)
class Authority:
    """A root, and who it vouched for."""

    folder: Path

    @property
    def roots(self) -> Path:
        return self.folder / "root.pem"

    def vouch(
        self, name: str, days: int = 3650, section: str = "leaf", algorithm: str | None = None
    ) -> tuple[Path, Path]:
        """A key and its certificate for `CN=NAME`; with `algorithm` one of a type that no bundle is signed with."""
        key = make_other_key(self.folder, algorithm) if algorithm else make_key(self.folder, name)
        words = ["x509", "-req", "-in", self._request(key, name), "-CA", "root.pem", "-CAkey", "root.key"]
        words += ["-days", str(days), "-extfile", "c.cnf", "-extensions", section]
        openssl(self.folder, *words, "-set_serial", str(1000 + len(name)), "-out", f"{name}.pem")
        return key, self.folder / f"{name}.pem"

    def vouch_between(self, name: str, first: str, last: str) -> tuple[Path, Path]:
        """A key and its certificate for `CN=NAME` that counts from one time to another, such as `20200101000000Z`."""
        key = make_key(self.folder, name)
        words = ["-in", self._request(key, name), "-startdate", first, "-enddate", last, "-extensions", "leaf"]
        openssl(self.folder, *self._ca(), *words, "-batch", "-create_serial", "-outdir", ".", "-out", f"{name}.pem")
        return key, self.folder / f"{name}.pem"

    def _request(self, key: Path, name: str) -> str:
        """Name of the file that asks for a certificate."""
        words = ["-key", key.name, "-subj", f"/CN={name}", "-config", "c.cnf", "-out", f"{name}.csr"]
        openssl(self.folder, "req", "-new", *words)
        return f"{name}.csr"

    def _ca(self) -> list[str]:
        """Words of `openssl ca`, the only command that takes any dates and takes certificates back."""
        (self.folder / "index.txt").touch()
        return ["ca", "-config", "c.cnf", "-name", "authority", "-cert", "root.pem", "-keyfile", "root.key"]

    def below(self, name: str, folder: Path) -> Authority:
        """One that this one vouches for, `NAME.pem`, and that vouches for others."""
        key, certificate = self.vouch(name, section="ca")
        folder.mkdir()
        for path, copy in ((key, "root.key"), (certificate, "root.pem"), (self.folder / "c.cnf", "c.cnf")):
            shutil.copyfile(path, folder / copy)
        return Authority(folder)

    def take_back(self, *certificates: Path, days: int = 3650) -> Path:
        """The list of certificates that do not count any more, itself good for so many days."""
        for certificate in certificates:
            openssl(self.folder, *self._ca(), "-revoke", certificate.name)
        openssl(self.folder, *self._ca(), "-gencrl", "-crldays", str(days), "-out", "revoked.pem")
        return self.folder / "revoked.pem"


def make_authority(folder: Path, name: str = "root") -> Authority:
    folder.mkdir(parents=True)
    (folder / "c.cnf").write_text(_CONFIG)
    make_key(folder, "root")
    words = ["req", "-x509", "-new", "-key", "root.key", "-subj", f"/CN={name}", "-days", "7300", "-config", "c.cnf"]
    openssl(folder, *words, "-extensions", "ca", "-out", "root.pem")
    return Authority(folder)


def sign(folder: Path, key: Path, certificate: Path | None = None, chain: tuple[Path, ...] = ()) -> Path:
    """Sign a folder as `model_signing` does it; returns the signature's file."""
    config = signing.Config()  # type: ignore[no-untyped-call]
    if certificate is None:
        config.use_elliptic_key_signer(private_key=key)
    else:
        # It takes no empty chain.
        between = chain or (certificate,)
        config.use_certificate_signer(private_key=key, signing_certificate=certificate, certificate_chain=between)
    place = folder / "model.sig"
    hashes = hashing.Config()  # type: ignore[no-untyped-call]
    config.set_hashing_config(hashes.set_ignored_paths(paths=[place])).sign(folder, place)
    return place
