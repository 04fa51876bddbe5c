"""The key of whoever signs: an Ed25519 key (Bernstein et al. 2012) in a file of its own, and secrets that follow from it."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from medldm.errors import UserError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LARGEST = 4096  # bytes of a key file
MARKS = "watermarks"  # purpose of the secret that watermarks follow from


def signing_key(path: Path) -> "Ed25519PrivateKey":
    """The private key in a PEM file; a new one, with the public key in `path`.pub beside it, where there is no such file.

    Args:
        path: readable by its owner only, and never to be passed on.

    Raises:
        UserError: the file holds no Ed25519 private key, or others can read it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = Path(path)
    if not path.exists():
        return _new(path)
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} can be read by others.", f"Restrict it with: chmod 600 {path}")
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} holds no private key, or one with a passphrase.", "Give another path; a new key is made there.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} holds a private key of another kind than Ed25519.", "Give another path; a new key is made there.")
    return key


def public_key(path: Path) -> bytes:
    """The 32 bytes of the public key in a PEM file.

    Raises:
        UserError: the file is missing or holds no Ed25519 public key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(Path(path)))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.", "Give the file NAME.pub of whoever signed.") from error
    except ValueError as error:
        raise UserError(f"{path} holds no public key.", "Give the file NAME.pub of whoever signed.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} holds a public key of another kind than Ed25519.", "Give the file NAME.pub of whoever signed.")
    return key.public_bytes_raw()


def secret(key: "Ed25519PrivateKey", purpose: str, length: int = 32) -> bytes:
    """Bytes that only the owner of a key can compute, others for each purpose (HKDF, RFC 5869)."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, salt=None, info=f"medldm {purpose}".encode()).derive(key.private_bytes_raw())


def fingerprint(public: bytes) -> str:
    """A public key's name for people: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def _new(path: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    # never readable by others, not even for a moment, and never over a file that is there
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "wb") as stream:
        stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        os.fsync(stream.fileno())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_name(path.name + ".pub").write_bytes(public)
    return key


def _read(path: Path) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(LARGEST)
