"""The viewer of a report, opened from disk in a browser: it draws, complains of nothing and asks for nothing."""

import base64
import gzip
import json
import shutil
import subprocess
from io import BytesIO
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest

from medldm.report.html import Section, Text, write_report
from medldm.report.mosaic import Picture
from medldm.report.viewer import BUNDLE, LONGEST, Viewer, block

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0",
    "--virtual-time-budget=10000",
)  # fmt: skip


BROWSERS_OWN = ("google.com", "googleapis.com", "gvt1.com")  # what Chromium asks for by itself


def ball(shape=(24, 28, 20), spacing=(1.0, 1.0, 2.0)):
    axes = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")
    distance = np.sqrt(sum(a**2 for a in axes))
    return Picture(np.cos(distance / 2), (distance < 6).astype(np.float32) + (distance < 3), spacing)


def volume(text):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_volumes_keep_greys_labels_and_millimetres():
    picture = ball()
    data = Viewer("", {"real": picture, "plain": Picture(picture.image)}).data
    image, label = volume(data["images"][0]), volume(data["labels"][0])
    np.testing.assert_allclose(np.asarray(image.dataobj) / 127.5 - 1, picture.image, atol=1 / 255)
    np.testing.assert_array_equal(np.asarray(label.dataobj), picture.label)
    assert image.header.get_zooms() == label.header.get_zooms() == (1, 1, 2)
    assert data["labels"][1] is None and list(data["colours"]) == [1, 2]


def test_large_volumes_are_thinned_to_what_a_page_bears():
    picture = ball((300, 40, 130))
    data = Viewer("", {"large": picture}).data
    image, label = volume(data["images"][0]), volume(data["labels"][0])
    assert block(picture.image.shape) == 3 and image.shape == label.shape == (100, 14, 44) and max(image.shape) <= LONGEST
    assert image.header.get_zooms() == (3, 3, 6)


def test_only_a_page_with_a_viewer_has_a_script(tmp_path):
    write_report(tmp_path / "plain.html", "Plain", "", [Section("A", [Text(["b"])])])
    write_report(tmp_path / "viewer.html", "Viewer", "", [Section("A", [Viewer("", {"</script><b>": ball()})])])
    plain, page = ((tmp_path / f"{name}.html").read_text() for name in ("plain", "viewer"))
    assert "<script" not in plain and "script-src 'none'" in plain
    assert "</script><b>" not in page and page.count("</script>") == 2 and "default-src 'none'" in page
    assert BUNDLE.read_text() in page


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium to open the page in")
def test_a_browser_shows_it_and_asks_the_network_for_nothing(tmp_path):
    from PIL import Image

    write_report(tmp_path / "page.html", "Page", "", [Section("A", [Viewer("", {"real": ball(), "generated": ball()}, "", {"one": "#ff9f1c"})])])
    files = [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'shot.png'}", f"--log-net-log={tmp_path / 'net.json'}"]
    found = subprocess.run(
        [CHROMIUM, *OPTIONS, *files, "--window-size=900,900", f"file://{tmp_path / 'page.html'}"], capture_output=True, text=True, timeout=120
    )
    assert [line for line in found.stderr.splitlines() if ":CONSOLE" in line] == []
    shot = np.asarray(Image.open(BytesIO((tmp_path / "shot.png").read_bytes())).convert("RGB")).astype(int)
    stage = shot[-500:-60, 60:-60]
    assert stage.std() > 20  # something is drawn
    assert ((stage[..., 0] - stage[..., 2]) > 40).mean() > 0.005  # and some of it in the colour of a label
    text = (tmp_path / "net.json").read_text()
    asked = {event["params"]["url"] for event in json.loads(text)["events"] if "url" in event.get("params", {})}
    own = ("file:", "data:", "blob:", "chrome")
    assert [url for url in asked if not url.startswith(own) and not (urlsplit(url).hostname or "").endswith(BROWSERS_OWN)] == []
