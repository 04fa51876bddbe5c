"""`medldm verify`: whether volumes are what somebody signed."""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from medldm.cohort import Cohort
from medldm.data.dicom.alone import private_texts, read_alone, segment_names
from medldm.data.dicom.headers import is_dicom, read_header
from medldm.data.dicom.synthetic import short_text
from medldm.diffusion.model import load_diffusion
from medldm.errors import UserError
from medldm.metrics.base import Images
from medldm.privacy.traces import Tracer
from medldm.provenance.image_mark import ImageMark
from medldm.provenance.keys import MARKS, fingerprint, public_key, secret, signing_key
from medldm.provenance.manifest import SCHEMA, Verdict, among, judge, sidecar
from medldm.provenance.manifest import verify as verdict_of
from medldm.volume import BadVolume, read_volume

SUFFIXES = (".nii", ".nii.gz", ".dcm")
BEGINNING = 4 << 20  # bytes of a file among which its manifest stands


def verify(
    paths: list[Path],
    trust: list[Path] | Path | None = None,
    released: Path | None = None,
    key: Path | None = None,
    run: Path | None = None,
) -> dict[Path, Verdict]:
    """Say of each volume whether it is valid, tampered, signed by an untrusted key, or without any signed metadata.

    Who signed can read the watermark where the metadata are gone: with --released and --key the released case is named that an image goes back
    to, also after it was mirrored, turned, shifted, cut, resampled or given other intensities. Exit code 2 unless all are valid.

    Args:
        paths: NIfTI files, DICOM files that `export` wrote, or folders of them such as a released cohort.
        trust: public keys (NAME.pub) that are vouched for.
        released: the released cohort, to look for its watermarks.
        key: the private key that signed it.
        run: the diffusion run that generated it with `generate --key`, to look for watermarks of the noise, too.

    Returns:
        The verdict of each file.

    Raises:
        UserError: a file is not valid, or there is none.
    """
    if (released is None) != (key is None) or (run and not released):
        raise UserError("A watermark is looked for with --released COHORT and --key FILE, both.", "Give what is missing, too.")
    if key is not None and not Path(key).is_file():
        raise UserError(f"{key} does not exist.", "Give the private key that the cohort was signed with.")
    trusted = [public_key(path) for path in ([trust] if isinstance(trust, Path) else trust or [])]
    files = [file for path in paths for file in _files(Path(path))]
    tracer = _tracer(Path(released), Path(key), run) if released and key else None
    verdicts: dict[Path, Verdict] = {}
    for file in track(files, "verifying", console=Console(stderr=True), transient=True):
        try:
            verdicts[file] = verdict(file, trusted)
        except BadVolume as bad:
            verdicts[file] = Verdict("tampered" if _was_signed(file) else "metadata_missing", f"It cannot be read as a volume ({bad.reason}).")
        print(f"{verdicts[file].state:<17} {file}  {_told(verdicts[file])}")
        if tracer and verdicts[file].state != "valid":
            print("\n".join(f"{'':17} {line}" for line in _traced(tracer, file)))
    if wrong := [file for file in files if verdicts[file].state != "valid"]:
        raise UserError(f"{len(wrong)} of {len(files)} files are not valid.", "" if trusted else "Give --trust NAME.pub of whoever signed.")
    print(f"{len(files)} files are valid.")
    return verdicts


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES) and not file.name.startswith("."))
    if not found:
        raise UserError(
            f"{path} " + ("holds no NIfTI file and no .dcm file." if path.is_dir() else "does not exist."), "Give a file or a folder of them."
        )
    yield from found


def verdict(file: Path, trusted: list[bytes]) -> Verdict:
    """What the signed manifest of a NIfTI or DICOM file says of it.

    Args:
        file: an image or a label map.
        trusted: public keys that are vouched for, 32 bytes each.

    Raises:
        BadVolume: the file holds no usable volume.
    """
    if not is_dicom(file):
        return verdict_of(file, trusted)
    found = judge(among(private_texts(file)), partial(read_alone, file), trusted)
    if not found.manifest:
        return found
    signed, header = found.manifest, read_header(file)
    if signed["synthetic"] and not header.synthetic:
        return replace(found, state="tampered", reason="The header does not say any more that it is synthetic.")
    if found.role == "label" and "labels" in signed:
        names = {value: (short_text(name),) * 2 for value, name in signed["labels"].items()}
        if segment_names(header) != names:
            return replace(found, state="tampered", reason="Its segments have other names than those that were signed.")
    return found


def _told(found: Verdict) -> str:
    signer = f" Signed by {fingerprint(found.key)}." if found.key and found.state != "valid" else ""
    return found.reason + signer


def _tracer(released: Path, key: Path, run: Path | None) -> Tracer:
    cohort, signer = Cohort.load(released), signing_key(key)
    own = [signer.public_key().public_bytes_raw()]
    found = {case.case: verdict_of(cohort.path(case.image), own) for case in cohort}
    if wrong := next((case for case, one in found.items() if one.state != "valid"), None):
        raise UserError(f"{wrong} of {released} is {found[wrong].state}.", "Give the cohort as `release` wrote it, and the key that signed it.")
    manifests = [one.manifest or {} for one in found.values()]
    if not manifests or not (manifests[0]["mark"] or run):
        raise UserError(f"{released} was released without watermarks.", "Leave --released away.")
    mark = manifests[0]["mark"]
    how = ImageMark(float(mark["psnr"]), tuple(float(f) for f in mark["band"])) if mark else None
    model = load_diffusion(run, "Give the run that generated the cohort.") if run else None
    return Tracer(Images(cohort), [bytes.fromhex(manifest["id"]) for manifest in manifests], secret(signer, MARKS), how, model)


def _was_signed(file: Path) -> bool:
    """Whether a damaged file has a manifest beside it, or in what can be read of its beginning."""
    if sidecar(file).exists():
        return True
    with open(file, "rb") as stream:
        head = stream.read(BEGINNING)
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, BEGINNING)
        except zlib.error:
            return False
    return SCHEMA.encode() in head


def _traced(tracer: Tracer, file: Path) -> Iterator[str]:
    try:
        volume = read_alone(file) if is_dicom(file) else read_volume(file)
    except BadVolume:
        yield "no watermark can be sought in it"
        return
    for place, trace in tracer(volume).items():
        told = f"watermark of {tracer.released.cases[trace.index].case} in its {place}"
        yield f"{'carries the' if trace.found else 'no'} {told} (score {trace.score:.1f}; chance stays below {trace.limit:.1f})"
