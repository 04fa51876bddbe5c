"""One self-contained HTML page: pictures and viewer inside the file, nothing loaded from elsewhere.

The page forbids its own scripts every connection, whatever they were to try. Without a viewer it has no script.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from medldm.files import write_text
from medldm.report.viewer import Viewer, bundle


@dataclass(frozen=True)
class Figure:
    """A picture.

    Args:
        title: above it, or "".
        png: the picture.
        caption: below it; also what a screen reader says.
        legend: name -> colour "#rrggbb", shown as coloured marks.
    """

    title: str
    png: bytes
    caption: str = ""
    legend: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The picture as a data address."""
        return "data:image/png;base64," + b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Figures:
    """Small pictures side by side, as many in a row as the screen has room for.

    Args:
        title: above them.
        figures: the pictures, each with its own caption.
        caption: above the pictures, about all of them.
        legend: name -> colour "#rrggbb".
    """

    title: str
    figures: Sequence[Figure]
    caption: str = ""
    legend: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Args:
        title: above the table, or "".
        header: one name per column.
        rows: cells as they are to be read.
        figures: columns (by position) that hold figures, set in one width and never broken.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Sequence[int] = ()


@dataclass(frozen=True)
class Text:
    """Paragraphs.

    Args:
        paragraphs: plain text.
    """

    paragraphs: Sequence[str]


Item: TypeAlias = Figure | Figures | Table | Text | Viewer


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Args:
        title: the heading.
        items: figures, tables and text in the order of reading.
    """

    title: str
    items: Sequence[Item]


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The page as HTML text; everything given is escaped. Arguments as in `write_report`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medldm", "report/templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kind"] = lambda item: type(item).__name__
    shown = [section for section in sections if section.items]
    script = bundle() if any(isinstance(item, Viewer) for section in shown for item in section.items) else ""
    return environment.get_template("report.html.j2").render(title=title, lead=lead, sections=shown, script=script)


def write_report(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page atomically.

    Args:
        path: the .html file.
        title: of the page.
        lead: one or two sentences under the title: what was compared with what.
        sections: in the order of reading; those without items are left out.
    """
    write_text(path, render(title, lead, sections))
