"""Tables that users write: rows and columns of a CSV or TSV file, and what each column may be."""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from medldm.cohort import COLUMNS, SPLITS, Covariate
from medldm.errors import UserError

#: Columns that tell who a person is, which a cohort never holds.
IDENTITIES = (
    *("name", "patient_name", "patientname", "first_name", "last_name", "birth_date", "birthdate", "date_of_birth", "dob", "mrn", "ssn"),
    *("study_uid", "series_uid", "studyinstanceuid", "seriesinstanceuid", "accession_number", "accessionnumber"),
)


def read_lines(path: Path, option: str = "--covariates") -> tuple[list[dict[str, str]], dict[str, str]]:
    """The rows of a CSV or TSV file with a title row, cells without surrounding blanks.

    Returns:
        The rows by cleaned title, and cleaned title -> title.

    Raises:
        UserError: the file is missing or no table, titles are missing or alike, or a row has another number of cells.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:  # spreadsheets put a byte order mark in front
            reader = csv.reader(stream, strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            table = [(reader.line_num, [cell.strip() for cell in line]) for line in reader if line]
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.", f"Give a CSV file as {option}.") from error
    except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} cannot be read as CSV ({error}).", "Save it as comma-separated UTF-8 text.") from error
    first = table[0][1] if table else []
    if len(first) == 1 and re.search(r"[;\t|]", first[0]):
        raise UserError(f"{path} has a single column, {first[0]!r}.", "Separate columns by commas (by tabs in a .tsv).")
    titles = {re.sub(r"\W+", "_", title.lower()).strip("_"): title for title in first}
    if not first or len(titles) < len(first) or "" in titles:
        raise wrong_columns(path, dict(enumerate(first)))
    for number, line in table[1:]:
        if len(line) != len(first):
            raise UserError(f"{path}, row {number}: the number of cells differs from the {len(first)} columns.", "Correct the row.")
    return [dict(zip(titles, line, strict=True)) for _, line in table[1:]], titles


def refuse_mixed(path: Path, name: str, values: Mapping[str, Covariate]) -> None:
    """Refuse a covariate with numbers and words, decimal commas, words that differ in capitals alone, or infinities.

    Args:
        path: where it stands, for the message.
        name: the covariate.
        values: who has it, as messages may say -> its value.

    Raises:
        UserError: names one who differs from most.
    """
    kinds: dict[type, list[str]] = defaultdict(list)
    for who, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            raise UserError(f"{path}, column {name!r}: {who} has {value}.", "Correct it, or leave the cell empty.")
        if isinstance(value, str) and re.fullmatch(r"[+-]?\d+,\d+", value):
            raise UserError(f"{path}, column {name!r}: {who} has {value!r}, a number with a comma.", "Write points before decimals.")
        if value is not None:
            kinds[type(value)].append(who)
    if len(kinds) > 1:
        fewer = min(kinds.values(), key=len)
        raise UserError(
            f"{path}, column {name!r} mixes {len(kinds[float])} numbers and {len(kinds[str])} words ({fewer[0]} has {values[fewer[0]]!r}).",
            "Correct it, or leave the cell empty.",
        )
    spellings: dict[str, str] = {}
    for value in values.values():
        if isinstance(value, str) and spellings.setdefault(value.casefold(), value) != value:
            raise UserError(f"{path}, column {name!r} has both {spellings[value.casefold()]!r} and {value!r}.", "Write one word for one thing.")


def split_name(where: str, text: str) -> str:
    """The split in a cell.

    Raises:
        UserError: it is neither empty nor a split.
    """
    if text not in SPLITS:
        raise UserError(f"{where}: split {text!r} is none of train, val, test.", "Correct it, or leave the cell empty.")
    return text


def covariate_names(path: Path, titles: Mapping[str, str], taken: Sequence[str]) -> list[str]:
    """The columns of a table that hold covariates.

    Args:
        path: the table, for the message.
        titles: cleaned title -> title.
        taken: cleaned titles that mean something else.

    Raises:
        UserError: a column has a name that a cohort uses for something else, or tells who the patients are.
    """
    names = [name for name in titles if name not in taken]
    if persons := [name for name in names if name in IDENTITIES]:
        raise UserError(f"{path}: the columns {', '.join(persons)} tell who the patients are, which a cohort must not.", "Take them out.")
    if fixed := sorted(set(names) & set(COLUMNS)):
        raise UserError(f"{path}: the columns {', '.join(fixed)} have a fixed meaning in a cohort.", "Rename them.")
    return names


def wrong_columns(path: Path, titles: Mapping) -> UserError:
    """What to say of a table whose columns are not understood.

    Args:
        path: the table.
        titles: anything -> title as in the file.
    """
    found = ", ".join(map(repr, titles.values())) or "nothing"
    message = f"{path} has the columns {found}; each name once and one 'case' were expected."
    return UserError(message, "Correct the first row; separate by commas (by tabs in a .tsv).")
