"""What is left of planted identifiers after de-identification: ours beside three other tools, each with its defaults.

    python benchmarks/deidentify.py [FOLDER] [--peers PYTHON]

Strings that tell who a patient is are planted into synthetic CT and Enhanced MR files (one string for every text attribute of the standard's table,
and more in sequences, frames, private attributes, free text, multi-byte names, paddings) and into a copy of every DICOM file of FOLDER
(default ../shared/data/dicom). A string is leaked if any output file holds it, in any of nine encodings, case aside; names of files do not
count for the others, whose outputs are numbered here. Ours runs with pixels and faces accepted, since the others do not look at pixels either.

PYTHON is an interpreter that has dicom-anonymizer, dicognito, deid and highdicom (never `dicomanonymizer`, a project of the same import name):

    python -m venv peers && peers/bin/pip install dicom-anonymizer==2.1.0 dicognito==0.19.0 deid==0.4.13 highdicom==0.28.2

The tables of kinds of objects in highdicom (PS3.3) then say whether an attribute of type 1 lost its value, or one of type 2 its place, in the CT
and MR files of FOLDER without planted strings. Other defects of these files, which they have before, do not count.

Where dciodvfy (D. Clunie's dicom3tools, a package of Debian) is installed, it reads the same files before and after; errors that were not there
count.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.datadict import dictionary_has_tag

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "data"))  # the writers of synthetic files and of strings

from dicom_phantoms import CT, ENHANCED_MR, base, item, put_pixels, save
from planted import leaks, plant

from medldm.commands.anonymize import anonymize
from medldm.privacy.pseudonyms import Key
from medldm.privacy.rules import table

DEFAULT = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "dicom"
TAGS = [int(name, 16) for name in table() if "x" not in name and not name.startswith(("0000", "0002", "0004", "00420011", "0040A730"))]
TAGS = [tag for tag in TAGS if dictionary_has_tag(tag)]
EACH = 9  # a real file gets every ninth attribute of the table

PEERS = {
    "dicom_anonymizer": "from dicomanonymizer import anonymize_dicom_file as run\nrun(sys.argv[1], sys.argv[2])",
    "dicognito": (
        "import pydicom\nfrom dicognito.anonymizer import Anonymizer\n"
        "d = pydicom.dcmread(sys.argv[1], force=True)\nAnonymizer().anonymize(d)\nd.save_as(sys.argv[2])"
    ),
    "deid": (
        "from deid.dicom import get_identifiers, replace_identifiers\nfrom deid.config import DeidRecipe\n"
        "files = [sys.argv[1]]\nids = get_identifiers(files)\n"
        "out = replace_identifiers(dicom_files=files, deid=DeidRecipe(), ids=ids, save=False, remove_private=True, strip_sequences=False)\n"
        "out[0].save_as(sys.argv[2])"
    ),
}
#: Runs one of the above for each line "from<TAB>to" of its input, and says "ok" or "failed".
LOOP = """
import sys, warnings, logging
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
lines, out = sys.stdin.read().splitlines(), sys.stdout
sys.stdout = sys.stderr
def one():
{body}
for line in lines:
    sys.argv[1:] = line.split("\\t")
    try:
        one(); print("ok", file=out)
    except BaseException as error:
        print("failed", type(error).__name__, file=out)
"""


def write_source(real: Path, source: Path) -> tuple[list[str], int]:
    """Synthetic and real files with strings; real ones that cannot be written with them are copied as they are.

    Returns:
        The strings, and the number of files.
    """
    planted: list[str] = []
    pixels = np.arange(48, dtype=np.int16).reshape(6, 8)
    for number, kind in enumerate((CT, ENHANCED_MR)):
        frames = [item(FrameContentSequence=[item(FrameAcquisitionDateTime="20200301101500")]) for _ in range(6)]
        dataset = base(kind, SeriesInstanceUID=f"1.2.826.77.{number}", **({"PerFrameFunctionalGroupsSequence": frames} if number else {}))
        put_pixels(dataset, np.stack([pixels] * 6) if number else pixels)
        planted += plant(dataset, TAGS, f"s{number}")
        save(dataset, source / "synthetic" / f"{number}.dcm")
    copies = 0
    for number, path in enumerate(sorted(p for p in real.rglob("*") if p.is_file())):
        copies += 1
        target = source / "real" / path.relative_to(real)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            dataset = pydicom.dcmread(path, force=True)
            own = plant(dataset, TAGS[number % EACH :: EACH], f"{number:03d}")
            dataset.save_as(target, enforce_file_format=True)
        except Exception:  # malformed on purpose
            shutil.copy(path, target)
            continue
        planted += own
    return sorted(set(planted)), copies + 2


def run_peer(name: str, python: str, files: Sequence[Path], out: Path) -> tuple[int, float]:
    """De-identify files one by one in one process of another interpreter.

    Returns:
        The number of files that it failed on (-1: it is not installed), and seconds.
    """
    out.mkdir()
    body = "\n".join("    " + line for line in PEERS[name].splitlines())
    lines = "\n".join(f"{path}\t{out / f'{number:04d}.dcm'}" for number, path in enumerate(files))
    start = time.monotonic()
    done = subprocess.run([python, "-c", LOOP.format(body=body)], input=lines, capture_output=True, text=True, timeout=3600)
    said = done.stdout.split("\n")
    if any("ModuleNotFoundError" in line for line in said) or not done.stdout:
        return -1, 0.0
    return sum(line.startswith("failed") for line in said), time.monotonic() - start


def losses(
    before: pydicom.Dataset, after: pydicom.Dataset, attributes: dict[tuple[str, ...], dict[str, str]], path: tuple[str, ...] = ()
) -> list[str]:
    """Attributes of type 1 that had a value and have none, and of type 2 that were there and are not, in every item that is there afterwards."""
    lost = []
    for keyword, kind in attributes.get(path, {}).items():
        if keyword not in before or keyword == "DeidentificationMethodCodeSequence":  # its items are new
            continue
        there, was = keyword in after and not after[keyword].is_empty, not before[keyword].is_empty
        if (kind[0] == "1" and was and not there) or (kind[0] == "2" and keyword not in after):
            lost.append(".".join((*path, keyword)))
        if there and after[keyword].VR == "SQ" and before[keyword].VR == "SQ":
            pairs = zip(before[keyword].value, after[keyword].value, strict=False)
            lost += [name for old, new in pairs for name in losses(old, new, attributes, (*path, keyword))]
    return lost


def pairs(real: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """The CT and MR files of a folder without planted strings, each with what becomes of it."""
    anonymize(real, folder / "plain", folder / "plain.json", pixels="accept", faces="accept", skip_bad=True)
    secret = Key.read(folder / "plain.json").secret
    after = {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in (folder / "plain").rglob("*.dcm")}
    for path in sorted(p for p in real.rglob("*") if p.is_file()):
        try:
            before = pydicom.dcmread(path, force=True, stop_before_pixels=True)
            new = after.get(secret.uid(before.SOPInstanceUID))
        except Exception:  # malformed on purpose
            continue
        if new and before.get("Modality") in ("CT", "MR"):
            yield path, new


def required(given: Sequence[tuple[Path, Path]], python: str) -> tuple[int, list[str]]:
    """Attributes of types 1 and 2 looked at, and losses, over pairs of files."""
    where = "from importlib.util import find_spec; print(find_spec('highdicom').submodule_search_locations[0])"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True)
    tables = Path(found.stdout.strip()) / "_standard"
    if found.returncode or not (tables / "module_attribute_map.json").is_file():
        return 0, []
    kinds, modules, content = (
        json.loads((tables / f"{n}.json").read_text()) for n in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    )
    looked, lost = 0, []
    for before, after in (tuple(map(pydicom.dcmread, pair)) for pair in given):
        attributes: dict[tuple[str, ...], dict[str, str]] = {}
        for module in modules[kinds[before.SOPClassUID]]:
            for row in content[module["key"]]:
                if row["type"][0] in "12" or row["path"]:
                    attributes.setdefault(tuple(row["path"]), {})[row["keyword"]] = row["type"]
        for row in [row for module in modules[kinds[before.SOPClassUID]] for row in content[module["key"]] if not row["path"]]:
            attributes.setdefault((), {}).setdefault(row["keyword"], row["type"])
        looked += sum(kind[0] in "12" for part in attributes.values() for kind in part.values())
        lost += losses(before, after, attributes)
    return looked, lost


def new_errors(given: Sequence[tuple[Path, Path]]) -> tuple[int, int, list[str]] | None:
    """What dciodvfy says: errors before, errors after, and those that were not there before; None where it is not installed."""
    program = shutil.which("dciodvfy")
    if not program:
        return None

    def errors(path: Path) -> list[str]:
        told = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, errors="replace", timeout=60)
        return [line for line in (told.stdout + told.stderr).splitlines() if line.startswith("Error")]

    before, after = ([errors(pair[side]) for pair in given] for side in (0, 1))
    return sum(map(len, before)), sum(map(len, after)), [line for old, new in zip(before, after, strict=True) for line in set(new) - set(old)]


def main(real: Path, python: str) -> int:
    """Plant, run everything, print the table; 1 where ours leaks a string, loses a required attribute or makes an error."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        planted, count = write_source(real.resolve(), folder / "source")
        files = sorted(p for p in (folder / "source").rglob("*") if p.is_file())
        start = time.monotonic()
        anonymize(folder / "source", folder / "ours", folder / "key.json", pixels="accept", faces="accept", skip_bad=True)
        seconds = time.monotonic() - start
        refused = len(json.loads((folder / "key.json").read_text())["refused"])
        left = {"medldm": (len(leaks(folder / "ours", planted)), refused, seconds)}
        for name in PEERS:
            failed, seconds = run_peer(name, python, files, folder / name)
            left[name] = (len(leaks(folder / name, planted)) if failed >= 0 else -1, failed, seconds)
        print(f"{len(planted)} strings planted into {count} files\n{'tool':20} {'leaked':>8} {'refused or failed':>18} {'seconds':>8}")
        for name, (leaked, failed, seconds) in left.items():
            print(f"{name:20} {'-' if leaked < 0 else leaked:>8} {'not installed' if failed < 0 else failed:>18} {seconds:8.1f}")
        checked = list(pairs(real.resolve(), folder))
        looked, lost = required(checked, python)
        told = f"required attributes of {len(checked)} CT and MR files: {looked} places of types 1 and 2"
        print(f"{told}, {len(lost)} lost", *sorted(set(lost))[:20])
        before, after, new = new_errors(checked) or (-1, -1, [])
        told = f"{before} errors before, {after} after, {len(new)} new" if before >= 0 else "not installed"
        print(f"dciodvfy: {told}", *sorted(set(new))[:20])
        others = " ".join(f"leaked_{name}={left[name][0] if left[name][0] >= 0 else 'na'}" for name in PEERS)
        ends = f"required_lost={len(lost)} errors_new={len(new) if before >= 0 else 'na'}"
        print(f"RESULT planted={len(planted)} leaked={left['medldm'][0]} {others} refused={refused} files={count} {ends}")
    return 1 if left["medldm"][0] or lost or new else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the other tools")
    arguments = parser.parse_args()
    sys.exit(main(arguments.folder, arguments.peers))
