"""Where a volume comes from, signed: what stands in the file itself, what stands beside it, and whether both are still true.

A manifest is a JSON document of plain values. It is signed in its canonical form (sorted keys, no spaces, ASCII; after RFC 8785, with
numbers restricted to integers, whose text nobody disputes). The envelope {manifest, public_key, signature} is stored twice: in a header
extension of the NIfTI file, which SimpleITK and TorchIO drop when they write it again, and in a file beside it, which is forgotten when the
file is copied alone. DICOM files carry it in a private block.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medldm.errors import UserError
from medldm.volume import Volume, read_notes, read_volume

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA = "medldm.provenance/1"
LARGEST = 1 << 20  # bytes of an envelope
DECIMALS = 6  # of affines
ROLES = {"images": "image", "labels": "label"}  # folder of a cohort -> what its files are signed as

State = Literal["valid", "tampered", "untrusted_key", "metadata_missing"]


@dataclass(frozen=True)
class Verdict:
    """What is known of a file.

    Args:
        state: "valid": signed by a trusted key, and unchanged; "untrusted_key": signed and unchanged, but nobody vouches for the key;
            "tampered": voxels, place or manifest are not what was signed; "metadata_missing": nothing is signed, which says nothing about
            whether the volume is real.
        reason: one sentence.
        manifest: the signed facts, where the signature holds.
        key: the public key that signed, 32 bytes, or none.
        role: of the volume among those of its case, "image" or "label", where it is known.
    """

    state: State
    reason: str
    manifest: dict[str, Any] | None = None
    key: bytes = b""
    role: str = ""


def canonical(content: Any) -> bytes:
    """The one text of a value that is signed.

    Raises:
        TypeError: a value is a float or not plain; numbers that are not whole belong into texts.
    """
    _refuse_floats(content)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def content_digest(volume: Volume) -> str:
    """SHA-256 over what a volume shows and where: shape, float32 voxels (C order, little endian) and the affine in 1e-6 mm."""
    voxels = np.ascontiguousarray(volume.data.numpy(), dtype="<f4")
    affine = np.rint(volume.affine * 10**DECIMALS).astype("<i8")
    digest = hashlib.sha256(json.dumps(list(voxels.shape)).encode())
    digest.update(affine.tobytes())
    digest.update(voxels.tobytes())
    return digest.hexdigest()


def sign(manifest: dict[str, Any], key: "Ed25519PrivateKey") -> bytes:
    """The envelope of a manifest."""
    public, signature = key.public_key().public_bytes_raw(), key.sign(canonical(manifest))
    return canonical({"manifest": manifest, "public_key": public.hex(), "signature": signature.hex()})


def opened(envelope: bytes) -> tuple[dict[str, Any], bytes]:
    """The manifest and the public key of an envelope whose signature holds.

    Raises:
        UserError: it is no envelope, or not one byte for byte as it was signed.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        content = json.loads(envelope)
        manifest, public, signature = content["manifest"], bytes.fromhex(content["public_key"]), bytes.fromhex(content["signature"])
        if canonical(content) != envelope or manifest["schema"] != SCHEMA:
            raise ValueError("it is not in canonical form")
        Ed25519PublicKey.from_public_bytes(public).verify(signature, canonical(manifest))
    except (ValueError, KeyError, TypeError, RecursionError, InvalidSignature) as error:
        raise UserError("The signed manifest was changed.") from error
    return manifest, public


def sidecar(path: Path) -> Path:
    """Where the envelope of a file lies beside it: case.nii.gz -> case.prov.json."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".prov.json")


def verify(path: Path, trusted: Collection[bytes]) -> Verdict:
    """What the signed manifests of a NIfTI file say of it.

    Args:
        path: an image or a label map.
        trusted: public keys that are vouched for, 32 bytes each.

    Raises:
        BadVolume: the file holds no usable volume.
    """
    found = judge(envelopes(path), partial(read_volume, path), trusted)
    expected = ROLES.get(path.parent.name) if (path.parent.parent / "cohort.csv").is_file() else None
    if expected and found.role and found.manifest and (found.role, found.manifest["case"]) != (expected, path.name.removesuffix(".nii.gz")):
        told = f"It is signed as the {found.role} of {found.manifest['case']}, and stands in another place of the cohort."
        return replace(found, state="tampered", reason=told)
    return found


def envelopes(path: Path) -> list[bytes]:
    """The envelopes in a NIfTI file and beside it, whole or changed.

    Raises:
        BadVolume: the file cannot be read as NIfTI.
    """
    return [*among(read_notes(path)), *_beside(path)]


def among(notes: Iterable[bytes]) -> list[bytes]:
    """Texts of a file that are envelopes, or were: one changed byte hides none."""
    return [note for note in notes if note.startswith(b"{") or SCHEMA.encode() in note]


def judge(notes: Collection[bytes], read: Callable[[], Volume], trusted: Collection[bytes]) -> Verdict:
    """What envelopes say of a volume.

    Args:
        notes: all envelopes that were found with it; they have to agree.
        read: gives the volume, as its digest was taken.
        trusted: public keys that are vouched for, 32 bytes each.
    """
    if not notes:
        return Verdict("metadata_missing", "No manifest stands in the file or beside it.")
    try:
        found = [opened(note) for note in notes]
    except UserError as error:
        return Verdict("tampered", str(error))
    manifest, key = found[0]
    if any(other != found[0] for other in found[1:]):
        return Verdict("tampered", "The manifests in the file and beside it differ.")
    digest = content_digest(read())
    role = next((role for role, signed in manifest["content"].items() if signed == digest), "")
    if not role:
        return Verdict("tampered", "Voxels or place are not those that were signed.", manifest, key)
    if key not in trusted:
        return Verdict("untrusted_key", "Unchanged, but signed by a key that is not among the trusted ones.", manifest, key, role)
    return Verdict("valid", "Unchanged, and signed by a trusted key.", manifest, key, role)


def _beside(path: Path) -> list[bytes]:
    try:
        with open(sidecar(path), "rb") as stream:
            return [stream.read(LARGEST)]
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        return [b"{}"]  # no envelope, where one should be


def _refuse_floats(content: Any) -> None:
    if isinstance(content, float):
        raise TypeError(f"{content!r}: a signed number that is not whole has to be a text")
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ():
        _refuse_floats(value)
