"""What the statements are made of: types, digests and names of files, for those who write and those who read them.

Formats: https://github.com/in-toto/attestation (statement v1), https://slsa.dev/provenance/v1 (its predicate). Beside
`sha256` of a file's bytes stand three digests of our own: `espalier-files-v1`, the SHA-256 of the canonical JSON of
`{path: SHA-256}` of an artifact's files, `espalier-folder-v1`, that of `[[path, SHA-256], ...]` of a folder which the
recipe names, in the order of the paths, and `espalier-value-v1`, that of a value.
"""

from __future__ import annotations

from devices.files import digest_value

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:espalier:step:1"
HOST_CLASS = "urn:espalier:host:"
FILES_DIGEST, FOLDER_DIGEST, VALUE_DIGEST = "espalier-files-v1", "espalier-folder-v1", "espalier-value-v1"
ATTESTATIONS = "attestations"
"""Folder of the statements in the evidence bundle."""


def file_of(node: str) -> str:
    """Name of a step's statement."""
    return f"{node.replace(' ', '-').replace('/', '-of-')}.json"


def content_digest(file_digest: str) -> str:
    """What a config says of a file with this SHA-256."""
    return digest_value([(".", file_digest)])
