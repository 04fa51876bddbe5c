"""The page: self-contained, escaped, complete, readable in both modes."""

import re
from base64 import b64decode
from html.parser import HTMLParser

import pytest

from medldm.metrics.base import Score
from medldm.report.html import Figure, Figures, Section, Table, Text, render, write_report
from medldm.report.tables import score_table

PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==")


class Parts(HTMLParser):
    """Addresses, alternative texts and tags of a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.alternatives, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.alternatives += [value for name, value in attrs if name == "alt"]


@pytest.fixture
def page():
    figures = Figures("Cases", [Figure("", PNG, f"case {n}") for n in range(3)], "all of them", {"left <x>": "#ff0000"})
    table = Table("Numbers", ("name", "value"), [("psnr", "20"), ("<b>ssim</b>", "0.9")], figures=(1,))
    items = [Figure("One", PNG, "a picture"), figures, table, Text(["A & B."])]
    return render("Report <1>", "Lead.", [Section("First", items), Section("Empty", [])])


def test_nothing_is_loaded_from_elsewhere(page):
    addresses = Parts(page).addresses
    assert len([a for a in addresses if a.startswith("data:image/png;base64,")]) == 4
    assert all(a.startswith(("data:image/png;base64,", "#section-")) for a in addresses)
    assert not re.search(r"https?://|url\(|@import|<script", page)


def test_the_pictures_come_back_whole_and_have_alternatives(page):
    parts = Parts(page)
    assert all(b64decode(a.split(",", 1)[1]) == PNG for a in parts.addresses if a.startswith("data:"))
    assert parts.alternatives == ["a picture", "case 0", "case 1", "case 2"]


def test_text_is_escaped_and_empty_sections_are_left_out(page):
    assert "&lt;b&gt;ssim&lt;/b&gt;" in page and "<b>ssim" not in page
    assert "Report &lt;1&gt;" in page and "left &lt;x&gt;" in page and "A &amp; B." in page
    assert "Empty" not in page and Parts(page).tags.count("section") == 1


def test_phones_dark_mode_and_paper_are_served(page):
    for rule in ("width=device-width", "prefers-color-scheme: dark", "@media print", "overflow-x: auto"):
        assert rule in page


def test_a_report_is_written(tmp_path):
    write_report(tmp_path / "report.html", "Title", "Lead.", [Section("Only", [Text(["Word."])])])
    assert "<p>Word.</p>" in (tmp_path / "report.html").read_text()


def test_a_score_stands_beside_its_yardstick():
    scores = [Score("psnr", 23.1234, 22.9, 23.4, 40, "dB"), Score("psnr_dct", 21.84, 21.5, 22.1, 39, "dB"), Score("copies", 0, 0, 0, 64, "cases")]
    rows = score_table("", scores).rows
    assert [row[:5] for row in rows] == [
        ("psnr", "23.12 [22.90, 23.40]", "21.84 [21.50, 22.10], n 39", "40", "dB"),
        ("copies", "0 [0, 0]", "", "64", "cases"),
    ]
    assert all(row[5] for row in rows)


def test_small_and_missing_figures_are_readable():
    nan = float("nan")
    cells = [score_table("", [Score("x", value, nan, nan, 1)]).rows[0][1] for value in (-0.00777, 0.00000123, 1234.5678, float("inf"), nan)]
    assert cells == ["\u22120.00777", "0.00000", "1235", "inf", "nan"]
