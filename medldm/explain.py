"""What the parser of the command line found, in one line that a user can act on."""

import difflib
import importlib
import inspect
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

LONGEST = 400
#: What jsonargparse calls a type -> what it looks like on a command line.
LOOKS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, such as [first, second]",
    "tuple": "values in brackets, such as [1, 2]",
    "dict": "names with values, such as {first: 1, second: 2}",
}
OPTIONAL = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(?P<types>.*?)\] "
    r"Errors: - (?P<error>.*?)\.? - Expected (?:a )?<class 'NoneType'>.*? Given value: (?P<value>.*?)\.*$"
)
CHOICE = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: - Expected (?P<errors>.*?) Given value type: \S+ Given (?=value: )"
)
TYPE = re.compile(rf"(?:(?<=Expected )|(?<= or ))a (?:(?P<type>{'|'.join(LOOKS)})\b(?: with (?P<number>\d+) elements)?|Literal\[(?P<words>.*?)\])")
CLASS = re.compile(r"Problem with given class_path '([\w.]+)': ")


def explain(text: str, keys: Iterable[str], hints: Mapping[str, Any]) -> str:
    """What is wrong with which option, and the nearest name if a name is wrong.

    Args:
        text: what jsonargparse says, which lists every type that a value was tried as.
        keys: names of options.
        hints: option -> its type, whose classes are named where another one was given.
    """
    text = re.sub(r"Type \S*Callable\S*.*?callable class: ", "", " ".join(text.split()))
    if found := OPTIONAL.search(text):  # a setting that may be left away: what is wrong with it as a setting counts
        known = "Got value" in found["error"] or found["value"].startswith(("NestedArg(", "Namespace(", "{"))
        text = f"{text[: found.start()]}{found['error']}{'' if known else '. Got value: ' + found['value']}"
        if settings := re.match(r"<class '(medldm\.[\w.]+)'>", found["types"]):
            text = re.sub(r"Expected a dot import path string: .*", f"Expected settings of {settings[1]}, each with its name", text)
    text = re.sub(r"\.*\s*Got value: Namespace\(.*", "", text)
    classes = CLASS.findall(text)
    text = re.sub(r'Parser key "([^"]+)": (?:Parser key "([^"]+)": )?', lambda m: ".".join(filter(None, m.groups())) + ": ", CLASS.sub("", text))
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text).replace("typing.", "")
    text = TYPE.sub(_looks, CHOICE.sub(_either, text))
    known_here = ", ".join(kinds(hints.get(text.partition(":")[0])))
    kind = f"{known_here} or the path of a class" if known_here else "the path of a class"
    text = text.replace("Expected a dot import path string:", f"Expected {kind}, such as package.module.Class, not")
    wrong = re.search(r"[Oo]ption '([^']+)'|unrecognized arguments: --([^\s=]+)", text)
    if not wrong:
        return f"{shorten(text).rstrip('.')}."
    names = _settings(classes[-1]) if classes else {key.replace(".init_args", "") for key in keys}
    names |= {name.rpartition(".")[2] for name in names}
    return f"{shorten(text).rstrip('.')}.{nearest(wrong[1] or wrong[2], names)}"


def _either(found: re.Match[str]) -> str:
    """One sentence for a setting that may be of several types."""
    types = [re.sub(r"\.? Got value: .*", "", error).rstrip(".") for error in found["errors"].split(" - Expected ")]
    return f"Expected {' or '.join(types)}. Got "


def _looks(found: re.Match[str]) -> str:
    """A type as it looks on a command line."""
    if found["words"]:
        return " or ".join(found["words"].replace("'", "").split(", "))
    if found["number"]:
        return f"{found['number']} values in brackets, such as {list(range(1, int(found['number']) + 1))}"
    return LOOKS[found["type"]]


def kinds(hint: Any) -> list[str]:
    """Names of the classes of medldm that an option of a type may be, in alphabetical order: which module was imported first does not matter."""
    found: list[str] = []
    for base in get_args(hint) or (hint,):
        if inspect.isclass(base) and base.__module__.startswith("medldm."):
            for child in filter(lambda child: child.__module__.startswith("medldm."), base.__subclasses__()):
                found += [*([] if inspect.isabstract(child) else [child.__name__]), *kinds(child)]
    return sorted(found)


def nearest(name: str, names: Iterable[str]) -> str:
    """A question after the nearest of some names; empty if none is near."""
    close = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def shorten(text: str) -> str:
    """One line of bearable length, without the name of the user's folder."""
    text = " ".join(text.split()).replace(os.path.expanduser("~"), "~")
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def _settings(path: str) -> set[str]:
    """Arguments of a class of medldm."""
    module, _, name = path.rpartition(".")
    if not module.startswith("medldm."):
        return set()
    return set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
