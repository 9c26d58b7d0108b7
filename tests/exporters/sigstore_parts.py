"""A Sigstore of the tests' own: an authority, a log of certificates and a log of signatures, without a network.

What it writes are real signatures, which the library checks in full: only whom it trusts comes from here instead of
from Sigstore's servers. Formats: RFC 6962 (certificate transparency), https://github.com/sigstore/protobuf-specs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sigstore.models import TrustedRoot

from devices.trust.envelope import PAYLOAD_TYPE, Envelope

_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_CERTIFICATE_LOGGED = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_DER = serialization.Encoding.DER
_LIFETIME = timedelta(minutes=10)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _identifier(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_public(key)).digest()


def _signed(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass(frozen=True)
class Sigstore:
    """Its keys, made anew."""

    authority: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    certificate_log: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    signature_log: ec.EllipticCurvePrivateKey = field(default_factory=_key)
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc).replace(microsecond=0))

    def sign(self, payload: bytes, identity: str, issuer: str) -> bytes:
        """The signature file of a statement, by who is called so and vouched for by that issuer."""
        key = _key()
        certificate = self._certificate(key, identity, issuer)
        unsigned = Envelope(payload=payload, signature=b"", key_hint="", certificates=(), logged=True)
        signature = _signed(key, unsigned.message)
        entry = self._entry(payload, signature, certificate)
        material = {"certificate": {"rawBytes": _base64(certificate.public_bytes(_DER))}, "tlogEntries": [entry]}
        envelope = {
            "payload": _base64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": _base64(signature), "keyid": ""}],
        }
        media = "application/vnd.dev.sigstore.bundle.v0.3+json"
        return json.dumps({"mediaType": media, "verificationMaterial": material, "dsseEnvelope": envelope}).encode()

    def trusted_root(self, folder: Path) -> TrustedRoot:
        """What trusts it, and nobody else; read from a file in the folder, as the library reads its own."""
        root = self._built(self._builder("authority", self.authority, self.authority, is_authority=True))
        authority = {
            "subject": {"organization": "tests", "commonName": "authority"},
            "uri": "https://authority.invalid",
        }
        chain = {"certificates": [{"rawBytes": _base64(root.public_bytes(_DER))}]}
        period = {"start": (self.began - _LIFETIME).isoformat()}
        content = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self._log(self.signature_log, period)],
            "certificateAuthorities": [{**authority, "certChain": chain, "validFor": period}],
            "ctlogs": [self._log(self.certificate_log, period)],
            "timestampAuthorities": [],
        }
        path = folder / "trusted_root.json"
        path.write_text(json.dumps(content))
        return TrustedRoot.from_file(str(path))

    @staticmethod
    def _log(key: ec.EllipticCurvePrivateKey, period: dict[str, str]) -> dict[str, Any]:
        details = {"rawBytes": _base64(_public(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": period}
        return {
            "baseUrl": "https://log.invalid",
            "hashAlgorithm": "SHA2_256",
            "publicKey": details,
            "logId": {"keyId": _base64(_identifier(key))},
        }

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, is_authority: bool
    ) -> x509.CertificateBuilder:
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        usage |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
        usage |= {"digital_signature": not is_authority, "key_cert_sign": is_authority}
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if is_authority else []
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name(subject))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.began - _LIFETIME)
            .not_valid_after(self.began + _LIFETIME)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(identifier, critical=False)
        )

    def _built(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self.authority, hashes.SHA256())

    def _certificate(self, key: ec.EllipticCurvePrivateKey, identity: str, issuer: str) -> x509.Certificate:
        """Of a signer, with the log's promise (an SCT) that it was logged."""
        builder = (
            self._builder("", key, self.authority, is_authority=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, issuer.encode()), critical=False)
        )
        logged = self._built(builder).tbs_certificate_bytes
        time_ms = struct.pack("!Q", int(self.began.timestamp() * 1000))
        what = struct.pack("!H", 1) + _identifier(self.authority) + len(logged).to_bytes(3, "big") + logged
        promise = _signed(self.certificate_log, bytes([0, 0]) + time_ms + what + bytes(2))
        # SHA-256 and ECDSA, as TLS numbers them.
        timestamp = bytes([0]) + _identifier(self.certificate_log) + time_ms + bytes([0, 0, 4, 3])
        timestamp += struct.pack("!H", len(promise)) + promise
        listed = struct.pack("!HH", len(timestamp) + 2, len(timestamp)) + timestamp
        # DER of an octet string, which such a signature never makes as long as 128 bytes.
        value = bytes([0x04, len(listed)]) + listed
        return self._built(builder.add_extension(x509.UnrecognizedExtension(_CERTIFICATE_LOGGED, value), False))

    def _entry(self, payload: bytes, signature: bytes, certificate: x509.Certificate) -> dict[str, Any]:
        """Of the log of signatures, which holds nothing else: its root is the hash of this entry."""
        verifier = _base64(certificate.public_bytes(serialization.Encoding.PEM))
        digest = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
        # Nobody can check what is said of the envelope: JSON has many forms.
        spec = {
            "payloadHash": digest,
            "envelopeHash": digest,
            "signatures": [{"signature": _base64(signature), "verifier": verifier}],
        }
        body = json.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}).encode()
        log, time_s = _identifier(self.signature_log), int(self.began.timestamp())
        # Sorted and without spaces, as RFC 8785 writes it.
        promised = {"body": _base64(body), "integratedTime": time_s, "logID": log.hex(), "logIndex": 0}
        promise = _signed(self.signature_log, json.dumps(promised, separators=(",", ":")).encode())
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log.invalid\n1\n{_base64(root)}\n"
        mark = _base64(log[:4] + _signed(self.signature_log, note.encode()))
        proof = {"logIndex": "0", "rootHash": _base64(root), "treeSize": "1", "hashes": []}
        return {
            "logIndex": "0",
            "logId": {"keyId": _base64(log)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(time_s),
            "inclusionPromise": {"signedEntryTimestamp": _base64(promise)},
            "inclusionProof": {**proof, "checkpoint": {"envelope": f"{note}\n\u2014 log.invalid {mark}\n"}},
            "canonicalizedBody": _base64(body),
        }
