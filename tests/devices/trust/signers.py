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
default_md=sha256
default_crl_days=3650
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
        request, certificate = f"{name}.csr", f"{name}.pem"
        openssl(
            self.folder, "req", "-new", "-key", key.name, "-subj", f"/CN={name}", "-config", "c.cnf", "-out", request
        )
        words = ["x509", "-req", "-in", request, "-CA", "root.pem", "-CAkey", "root.key", "-days", str(days)]
        words += [
            "-extfile",
            "c.cnf",
            "-extensions",
            section,
            "-set_serial",
            str(1000 + len(name)),
            "-out",
            certificate,
        ]
        openssl(self.folder, *words)
        return key, self.folder / certificate

    def below(self, name: str, folder: Path) -> Authority:
        """One that this one vouches for, `NAME.pem`, and that vouches for others."""
        key, certificate = self.vouch(name, section="ca")
        folder.mkdir()
        for path, copy in ((key, "root.key"), (certificate, "root.pem"), (self.folder / "c.cnf", "c.cnf")):
            shutil.copyfile(path, folder / copy)
        return Authority(folder)

    def take_back(self, *certificates: Path, days: int = 3650) -> Path:
        """The list of certificates that do not count any more, itself good for so many days."""
        (self.folder / "index.txt").touch()
        shared = ["ca", "-config", "c.cnf", "-name", "authority", "-cert", "root.pem", "-keyfile", "root.key"]
        for certificate in certificates:
            openssl(self.folder, *shared, "-revoke", certificate.name)
        openssl(self.folder, *shared, "-gencrl", "-crldays", str(days), "-out", "revoked.pem")
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
