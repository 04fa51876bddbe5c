import json
import stat

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from medldm.errors import UserError
from medldm.provenance.keys import fingerprint, public_key, secret, signing_key
from medldm.provenance.manifest import SCHEMA, canonical, content_digest, opened, sidecar, sign, verify
from medldm.volume import Volume, read_notes, read_volume, write_volume


@pytest.fixture
def key(tmp_path):
    return signing_key(tmp_path / "keys" / "hospital.pem")


@pytest.fixture
def signed(tmp_path, key):
    """A file with its manifest inside and beside it."""
    affine = np.array([[-1.5, 0.1, 0, 12.25], [0.1, 2, 0, -7], [0, 0, 1 / 3, 1e-9], [0, 0, 0, 1]])
    volume = Volume(torch.randn(1, 6, 7, 8, generator=torch.Generator().manual_seed(0)), affine)
    path = tmp_path / "case.nii.gz"
    write_volume(path, volume)
    stored = read_volume(path)
    envelope = sign({"schema": SCHEMA, "id": "00ff", "content": {"image": content_digest(stored)}, "synthetic": True}, key)
    write_volume(path, volume, envelope)
    sidecar(path).write_bytes(envelope)
    return path


def state(path, *keys):
    return verify(path, [key.public_key().public_bytes_raw() for key in keys]).state


def test_a_signed_file_is_valid_for_whom_the_key_is_trusted(signed, key, tmp_path):
    found = verify(signed, [public_key(tmp_path / "keys" / "hospital.pem.pub")])
    assert found.state == "valid" and found.manifest["id"] == "00ff"
    assert fingerprint(found.key) == fingerprint(key.public_key().public_bytes_raw())
    assert state(signed, signing_key(tmp_path / "other.pem")) == "untrusted_key"
    assert state(signed) == "untrusted_key"


def test_either_copy_of_the_manifest_is_enough(signed, key):
    note = sidecar(signed).read_bytes()
    sidecar(signed).unlink()
    assert state(signed, key) == "valid"
    write_volume(signed, read_volume(signed))
    assert state(signed, key) == "metadata_missing"
    sidecar(signed).write_bytes(note)
    assert state(signed, key) == "valid"


def test_each_changed_byte_of_a_manifest_is_seen(signed, key):
    volume, note = read_volume(signed), sidecar(signed).read_bytes()
    for index in range(len(note)):
        changed = note[:index] + bytes([note[index] ^ 1]) + note[index + 1 :]
        with pytest.raises(UserError):
            opened(changed)
        if index % 40 == 0:
            sidecar(signed).write_bytes(changed)
            assert state(signed, key) == "tampered"
            sidecar(signed).unlink()
            write_volume(signed, volume, changed)
            assert state(signed, key) == "tampered"
            write_volume(signed, volume, note)
    sidecar(signed).write_bytes(json.dumps(json.loads(note), indent=1).encode())
    assert state(signed, key) == "tampered"


def test_a_manifest_of_another_file_is_seen(signed, key):
    other = sign({"schema": SCHEMA, "id": "01", "content": {"image": content_digest(read_volume(signed))}}, key)
    sidecar(signed).write_bytes(other)
    assert state(signed, key) == "tampered"


@pytest.mark.parametrize("change", ["one voxel, one bit", "place", "shape"])
def test_a_change_of_what_the_file_shows_is_seen(signed, key, change):
    image = nibabel.load(signed)
    data, affine = image.get_fdata().astype(np.float32), image.affine.copy()
    if change == "one voxel, one bit":
        data[3, 2, 1] = np.nextafter(data[3, 2, 1], np.float32(9))
    elif change == "place":
        affine[0, 3] += 1e-3
    else:
        data = data[:-1]
    header = image.header.copy()
    nibabel.save(nibabel.Nifti1Image(data, affine, header), signed)
    assert len(read_notes(signed)) == 1
    assert state(signed, key) == "tampered"


def test_what_other_software_writes_again_is_told_by_the_file_beside_it(signed, key):
    nibabel.save(nibabel.load(signed), signed)
    assert state(signed, key) == "valid"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(signed)), str(signed))
    sidecar(signed).unlink()
    assert state(signed, key) == "metadata_missing"


def test_only_texts_that_everybody_writes_alike_are_signed():
    assert canonical({"b": [1, True, None], "a": "ü"}) == b'{"a":"\\u00fc","b":[1,true,null]}'
    with pytest.raises(TypeError, match="text"):
        canonical({"a": [{"b": 0.5}]})


def test_keys(tmp_path):
    path = tmp_path / "deep" / "key.pem"
    key = signing_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing_key(path).private_bytes_raw() == key.private_bytes_raw()
    assert public_key(tmp_path / "deep" / "key.pem.pub") == key.public_key().public_bytes_raw()
    assert secret(key, "marks") == secret(signing_key(path), "marks") != secret(key, "other")
    assert secret(key, "marks") != secret(signing_key(tmp_path / "b.pem"), "marks")
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod"):
        signing_key(path)
    for content in (b"", b"nonsense", (tmp_path / "deep" / "key.pem.pub").read_bytes()):
        bad = tmp_path / "bad.pem"
        bad.write_bytes(content)
        bad.chmod(0o600)
        with pytest.raises(UserError, match="no private key"):
            signing_key(bad)
    with pytest.raises(UserError, match="does not exist"):
        public_key(tmp_path / "none.pub")
    with pytest.raises(UserError, match="no public key"):
        public_key(path)


def test_keys_of_other_kinds_are_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    other = X25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "key.pub").write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UserError, match="another kind"):
        signing_key(tmp_path / "key")
    with pytest.raises(UserError, match="another kind"):
        public_key(tmp_path / "key.pub")
