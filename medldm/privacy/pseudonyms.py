"""A secret, and what it makes of identities: pseudonyms, UIDs and days. The same secret gives the same ones, in any order and any run."""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medldm.errors import UserError
from medldm.files import atomic, read_json

NEAREST, SPREAD = 366, 3287  # days: from one to ten years back, so that no date stays near
BYTES = 32


@dataclass(frozen=True)
class Secret:
    """A key for HMAC-SHA256.

    Args:
        key: 32 random bytes; whoever has them can redo, and so undo, what was done to UIDs and dates.
    """

    key: bytes = field(repr=False)

    def digest(self, kind: str, value: str) -> bytes:
        """32 bytes that say nothing of the value to those without the key."""
        return hmac.new(self.key, f"{kind}\0{value}".encode(), hashlib.sha256).digest()

    def uid(self, uid: str) -> str:
        """The UID in place of another, under 2.25; those that the standard itself defines stay.

        Args:
            uid: without padding; "" stays.
        """
        from pydicom._uid_dict import UID_dictionary

        if not uid or uid in UID_dictionary:
            return uid
        number = bytearray(self.digest("uid", uid)[:16])
        number[6], number[8] = number[6] & 0x0F | 0x40, number[8] & 0x3F | 0x80  # a UUID of version 4, as 2.25 asks for
        return f"2.25.{int.from_bytes(number, 'big')}"

    def days(self, patient: str) -> int:
        """The negative number of days by which the dates of a patient move."""
        return -(NEAREST + int.from_bytes(self.digest("days", patient)[:8], "big") % SPREAD)


@dataclass
class Key:
    """A secret and the patients behind pseudonyms.

    Args:
        secret: makes UIDs and shifts.
        patients: pseudonym -> {"identity": [...], "studies": [study UIDs in order]}.
        refused: number of a file -> its path, for files of the last run that were refused.
    """

    secret: Secret
    patients: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    refused: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def new(cls) -> "Key":
        """A key with a random secret and no patients."""
        return cls(Secret(secrets.token_bytes(BYTES)))

    @classmethod
    def read(cls, path: Path) -> "Key":
        """The key in a file.

        Raises:
            UserError: the file is no key, or others may read it.
        """
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise UserError(f"{path} holds who is behind the pseudonyms and can be read by others.", f"Take their rights: chmod 600 {path}")
        content = read_json(path)
        try:
            key = bytes.fromhex(content["secret"])
            patients = {str(name): {"identity": list(row["identity"]), "studies": list(row["studies"])} for name, row in content["patients"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            key, patients = b"", {}
        if len(key) != BYTES:
            raise UserError(f"{path} is no key of `medldm anonymize`.", "Give the file that an earlier run wrote, or a new one, as --key.")
        return cls(Secret(key), patients)

    def write(self, path: Path) -> None:
        """Write the key, readable by its owner only."""
        content = {"secret": self.secret.key.hex(), "patients": self.patients, "refused": self.refused}
        before = os.umask(0o077)  # `atomic` gives a file the rights that the umask leaves
        try:
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        finally:
            os.umask(before)

    def name(self, identity: tuple[str, ...], taken: Collection[str] = ()) -> str:
        """The pseudonym of a patient; a new one gets the next free number.

        Args:
            identity: what tells patients apart.
            taken: words in small letters that are no pseudonym, since they are identifiers of somebody.
        """
        for name, row in self.patients.items():
            if tuple(row["identity"]) == identity:
                return name
        number = len(self.patients) + 1
        while (name := f"p{number:03d}") in self.patients or name in taken:
            number += 1
        self.patients[name] = {"identity": list(identity), "studies": []}
        return name

    def study(self, patient: str, uid: str) -> str:
        """The name of a study of a patient, "s01" for the first."""
        studies = self.patients[patient]["studies"]
        if uid not in studies:
            studies.append(uid)
        return f"s{studies.index(uid) + 1:02d}"
