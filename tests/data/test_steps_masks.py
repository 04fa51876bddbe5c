"""Masks from an external tool or from the label map, and label values without gaps."""

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.data.steps.history import History
from medldm.data.steps.relabel import Relabel
from medldm.data.steps.reorient import Reorient
from medldm.data.steps.skull_strip import MaskToLabel, SkullStrip
from medldm.errors import UserError
from medldm.volume import Volume, read_volume

AFFINE = np.array([[0, 2.0, 0, 10], [-1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def head(channels=2, shape=(16, 14, 12)) -> Volume:
    """A third air (values about 0), the rest tissue of two kinds."""
    rng = np.random.default_rng(0)
    data = np.abs(rng.normal(0, 5, (channels, *shape)))
    data[:, 4:12] += rng.choice([300.0, 700.0], (channels, 8, *shape[1:]))
    return Volume(torch.from_numpy(data.astype(np.float32)), AFFINE)


class Tool(SkullStrip):
    """May start Python, and a program that there is not."""

    tools = (sys.executable, "no-such-program-anywhere")


def tool(*lines: str) -> tuple[str, ...]:
    """A command that runs these lines of Python with the names of both files."""
    return (
        sys.executable,
        "-c",
        "\n".join(("import sys, nibabel, numpy as np, time", "image = nibabel.load(sys.argv[1])", *lines)),
        "{image}",
        "{mask}",
    )


WRITE = "nibabel.save(nibabel.Nifti1Image(voxels.astype(np.uint8), affine), sys.argv[2])"
THRESHOLD = ("voxels, affine = np.asarray(image.dataobj) > 100, image.affine", WRITE)


def test_skull_strip_runs_a_tool_and_keeps_what_it_says():
    image = head()
    change = Tool(tool(*THRESHOLD)).plan(image)
    inside = (image.data[0] > 100).expand(2, -1, -1, -1)
    again = History.from_plain(json.loads(json.dumps(History.of(image, [change]).to_plain()))).changes[0]
    for c in (change, again):
        after = c(image)
        assert torch.equal(after.data[inside], image.data[inside])
        for n in range(2):
            assert (after.data[n][~inside[n]] == image.data[n].min()).all()
        assert c.kept == int(inside[0].sum()) and c.kept + c.removed == inside[0].numel()
        assert c.undo(after) is after
    label = Volume(torch.ones(1, *image.shape), AFFINE, "label")
    assert change(label) is label
    with pytest.raises(UserError, match="grid"):
        change(Reorient()(image))


@pytest.mark.parametrize(
    "command, words",
    [
        (("no-such-program-anywhere", "{image}", "{mask}"), "cannot be started"),
        (tool("sys.stderr.write('first\\nout of cheese\\n'); sys.exit(3)"), "exit code 3: out of cheese"),
        (tool("pass"), "wrote no mask"),
        (tool("voxels, affine = np.zeros(image.shape), image.affine", WRITE), "is empty"),
        (tool("voxels, affine = np.ones(image.shape), np.eye(4)", WRITE), "another grid"),
        (tool("voxels, affine = np.ones(np.array(image.shape) - 1), image.affine", WRITE), "another grid"),
        (tool("open(sys.argv[2], 'w').write('no image')"), "mask.nii.gz"),
    ],
)
def test_a_tool_that_fails_is_named(command, words):
    with pytest.raises(UserError, match=words):
        Tool(command).plan(head(channels=1))


def test_a_configuration_starts_known_tools_only():
    assert SkullStrip(("bet", "{image}", "{mask}")).command[0] == "bet"
    with pytest.raises(UserError, match=r"'python3' is none of hd-bet"):
        SkullStrip(("python3", "{image}", "{mask}"))


def test_a_tool_that_hangs_is_stopped():
    with pytest.raises(UserError, match="more than"):
        Tool((sys.executable, "-c", "import time; time.sleep(60)", "{image}", "{mask}"), timeout=0.3).plan(head(channels=1))


def test_mask_to_label_keeps_a_margin_in_millimetres():
    label = torch.zeros(1, 16, 14, 12)
    label[0, 8, 7, 6] = 5
    image = head()
    after = MaskToLabel(3.1).plan(image, Volume(label, AFFINE, "label"))(image)
    kept = (after.data == image.data).all(0)
    # Voxels of 1.5 x 2 x 3 mm: within 3.1 mm lie those at offsets (2, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1) and between.
    offsets = np.argwhere(kept.numpy()) - (8, 7, 6)
    distances = np.linalg.norm(offsets * image.spacing, axis=1)
    lowest = (image.data == image.data.amin((1, 2, 3), keepdim=True)).all(0)
    assert ((distances <= 3.1) | lowest.numpy()[kept.numpy()]).all() and {(2, 0, 0), (0, 1, 0), (0, 0, -1)} <= set(map(tuple, offsets.tolist()))
    with pytest.raises(UserError, match="none"):
        MaskToLabel().plan(image)
    with pytest.raises(UserError, match="empty"):
        MaskToLabel().plan(image, Volume(torch.zeros_like(label), AFFINE, "label"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20000), min_size=1, max_size=12, unique=True), st.integers(0, 2**31))
def test_label_values_come_back(values, seed):
    label = torch.tensor([0, *values], dtype=torch.float32)[
        torch.randint(len(values) + 1, (1, 4, 5, 6), generator=torch.Generator().manual_seed(seed))
    ]
    before = Volume(label, AFFINE, "label")
    change = Relabel(tuple(values)).plan(before)
    after = change(before)
    assert all(torch.equal(after.data == n, label == value) for n, value in enumerate(values, start=1))
    assert torch.equal(change.undo(after).data, label)
    image = head()
    assert change(image) is image


def test_unknown_label_values_are_refused():
    label = Volume(torch.tensor([0.0, 4, 7, 9000, -1]).reshape(1, 5, 1, 1), AFFINE, "label")
    with pytest.raises(UserError, match="-1, 7, 9000"):
        Relabel((4, 9)).plan(label)(label)
    with pytest.raises(UserError, match="3"):
        Relabel((4, 9)).plan(label).undo(label.with_data(torch.full((1, 2, 2, 2), 3.0)))


def test_masks_of_real_heads_are_small_in_records(shared_data):
    folder = shared_data / "brains" / "ixi_hh_2mm"
    image = read_volume(sorted((folder / "t1").iterdir())[1])
    label = read_volume(sorted((folder / "dlmuse_seg").iterdir())[1], "label")
    change = MaskToLabel(3.0).plan(image, label)
    assert len(change.mask) < 20_000
    assert float(change(image).data.mean()) < float(image.data.mean())


@pytest.mark.parametrize(
    "step, settings",
    [
        (MaskToLabel, (-1.0,)), (Relabel, ((),)), (Relabel, ((1, 1),)), (Relabel, ((0, 1),)), (SkullStrip, (("bet", "{image}"),)),
        (SkullStrip, (("{image}", "{mask}"),)), (SkullStrip, (("bet", "{image}", "{mask}"), 0.0)), (SkullStrip, ((),)),
        (SkullStrip, (("rm", "{image}", "{mask}"),)), (SkullStrip, (("/tmp/bet", "{image}", "{mask}"),)),
    ],
)  # fmt: skip
def test_wrong_settings_of_masks_and_labels(step, settings):
    with pytest.raises(UserError):
        step(*settings)
