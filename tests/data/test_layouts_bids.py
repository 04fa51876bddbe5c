"""BIDS by hand: entities, sessions, runs, label maps of derivatives, tables. Files are empty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medldm.data.layouts import find_cases
from medldm.data.layouts.bids_names import parse
from medldm.errors import UserError


def bids(root, *names, **tables):
    """Files by name without ending; a table by its path with `__` for `/`."""
    for name in names:
        subject, *rest = name.rpartition("/")[2].split("_")
        session = next((part for part in rest if part.startswith("ses-")), "")
        kind = "func" if name.endswith("bold") else "ct" if name.endswith("_ct") else "anat"
        path = root / name.rpartition("/")[0] / subject / session / kind / f"{name.rpartition('/')[2]}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name, text in tables.items():
        path = root / f"{name.replace('__', '/').replace('sub_', 'sub-')}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(" ", "\t"))
    return root


def pairs(source):
    return {c.case: ([p.name[:-7] for p in c.images], c.label and c.label.name[:-7]) for c in source.cases}


def test_sessions_runs_and_patients(tmp_path):
    names = ["sub-01_ses-a_T1w", "sub-01_ses-b_run-1_T1w", "sub-01_ses-b_run-2_T1w", "sub-02_acq-x_T1w", "sub-02_task-rest_bold"]
    source = find_cases(bids(tmp_path, *names))
    assert source.kind == "bids" and source.contrasts == ("T1w",) and not source.labelled
    assert pairs(source) == {
        "sub-01_ses-a": (["sub-01_ses-a_T1w"], None),
        "sub-01_ses-b_run-1": (["sub-01_ses-b_run-1_T1w"], None),
        "sub-01_ses-b_run-2": (["sub-01_ses-b_run-2_T1w"], None),
        "sub-02": (["sub-02_acq-x_T1w"], None),
    }
    assert [case.patient for case in source.cases] == ["sub-01"] * 3 + ["sub-02"]
    assert {case.modality for case in source.cases} == {"MR"}


def test_contrasts_become_channels_in_their_order(tmp_path):
    names = ["sub-01_T1w", "sub-01_FLAIR", "sub-02_T1w", "sub-03_FLAIR", "sub-03_T1w", "sub-04_task-x_bold"]
    source = bids(tmp_path, *names)
    with pytest.raises(UserError, match=r"several contrasts: T1w \(3\), FLAIR \(2\).*--contrasts '\[T1w, FLAIR\]'"):
        find_cases(source)
    found = find_cases(source, contrasts=["FLAIR", "T1w"])
    assert pairs(found)["sub-03"] == (["sub-03_FLAIR", "sub-03_T1w"], None)
    assert {c.case: (c.status, c.reason) for c in found.cases if c.status != "ok"} == {
        "sub-02": ("channels", "has no FLAIR image."),
        "sub-04": ("no_image", "has no FLAIR and no T1w image."),
    }
    assert {c.case: c.status for c in find_cases(source, contrasts=["t1w"]).cases}["sub-04"] == "no_image"
    with pytest.raises(UserError, match="no contrast 'T2w'"):
        find_cases(source, contrasts=["T2w"])
    with pytest.raises(UserError, match="twice"):
        find_cases(source, contrasts=["T1w", "t1w"])


def test_entities_that_change_the_image_are_contrasts_and_others_can_be_asked_for(tmp_path):
    names = ["sub-01_T1w", "sub-01_ce-gd_T1w", "sub-01_acq-a_FLAIR", "sub-01_acq-b_FLAIR"]
    source = bids(tmp_path, *names)
    assert pairs(find_cases(source, contrasts=["T1w"])) == {"sub-01": (["sub-01_T1w"], None)}
    assert pairs(find_cases(source, contrasts=["ce-gd_T1w", "acq-b_FLAIR"])) == {"sub-01": (["sub-01_ce-gd_T1w", "sub-01_acq-b_FLAIR"], None)}
    assert list(pairs(find_cases(source, contrasts=["FLAIR"]))) == ["sub-01_acq-a", "sub-01_acq-b"]


def test_ct_is_ct(tmp_path):
    assert [case.modality for case in find_cases(bids(tmp_path, "sub-01_ct", "sub-02_ct")).cases] == ["CT", "CT"]


def test_label_maps_of_derivatives_with_their_names(tmp_path):
    maps = [
        "derivatives/m/sub-01_dseg",
        "derivatives/m/sub-02_space-orig_dseg",
        "derivatives/m/sub-02_space-MNI_dseg",
        "derivatives/m/sub-01_desc-brain_mask",
    ]
    table = "index name\n0 background\n1 Grey-matter\n3 csf\n"
    source = find_cases(bids(tmp_path, "sub-01_T1w", "sub-02_T1w", *maps, derivatives__m__dseg=table))
    assert {case: label for case, (_, label) in pairs(source).items()} == {"sub-01": "sub-01_dseg", "sub-02": "sub-02_space-orig_dseg"}
    assert source.labels == {1: "Grey_matter", 3: "csf"} and source.notes[0] == "images: T1w; label maps: m/dseg."
    assert source.notes[1:] == ("2 files that are called as label maps are not used.",)
    assert find_cases(tmp_path, labels={"x": 1}).labels == {1: "x"}
    mask = find_cases(tmp_path, contrasts=["T1w", "desc-brain_mask"])
    assert mask.labels == {1: "brain"} and [bool(case.label) for case in mask.cases] == [True, False] and mask.contrasts == ("T1w",)


def test_a_lesion_mask_names_its_label(tmp_path):
    source = find_cases(bids(tmp_path, "sub-01_FLAIR", "derivatives/manual/sub-01_label-lesion_mask"))
    assert source.labels == {1: "lesion"} and pairs(source) == {"sub-01": (["sub-01_FLAIR"], "sub-01_label-lesion_mask")}


def test_label_maps_of_other_runs_and_sessions_stay_away(tmp_path):
    names = ["sub-01_ses-1_run-1_T1w", "sub-01_ses-1_run-2_T1w", "sub-01_ses-2_T1w", "derivatives/m/sub-01_ses-1_run-2_dseg"]
    assert [label for _, label in pairs(find_cases(bids(tmp_path, *names))).values()] == [None, "sub-01_ses-1_run-2_dseg", None]


def test_several_kinds_of_label_maps_are_chosen(tmp_path):
    bids(tmp_path, "sub-01_T1w", "derivatives/a/sub-01_dseg", "derivatives/b/sub-01_desc-aseg_dseg")
    with pytest.raises(UserError, match=r"one kind of label maps was expected; it holds a/dseg \(1\), b/desc-aseg_dseg \(1\)"):
        find_cases(tmp_path)
    assert pairs(find_cases(tmp_path, contrasts=["desc-aseg_dseg"]))["sub-01"][1] == "sub-01_desc-aseg_dseg"
    with pytest.raises(UserError, match="one kind"):
        find_cases(tmp_path, contrasts=["T1w", "label-x_mask"])


@pytest.mark.parametrize(
    "table, message",
    [("value name\n1 x\n", "lacks the columns"), ("index name\n1 x\n2 x\n", "two labels"), ("index name\nx x\n", "'x' is no label value")],
)
def test_wrong_tables_of_labels(tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        find_cases(bids(tmp_path, "sub-01_T1w", "derivatives/m/sub-01_dseg", derivatives__m__dseg=table))


def test_participants_and_sessions(tmp_path):
    names = ["sub-01_ses-1_T1w", "sub-01_ses-2_T1w", "sub-02_ses-1_T1w", "sub-03_ses-1_T1w"]
    participants = "participant_id sex Age\nsub-01 F 60\nsub-02 M n/a\nsub-09 F 5\n"
    sessions = "session_id acq_time age\nses-1 1999-01-01T00:00:00 61\nses-2 2001-01-01T00:00:00 63\n"
    source = find_cases(bids(tmp_path, *names, participants=participants, sub_01__sub_01_sessions=sessions))
    assert [case.covariates for case in source.cases] == [
        {"age": 61.0, "sex": "F"},
        {"age": 63.0, "sex": "F"},
        {"age": None, "sex": "M"},
        {"age": None, "sex": None},
    ]
    assert (source.unknown_rows, source.missing_rows) == (1, 1)
    (tmp_path / "mine.csv").write_text("subject,age,split\n01,7,test\n02,8,train\n03,9,train\n")
    mine = find_cases(tmp_path, tmp_path / "mine.csv")
    assert [(case.covariates["age"], case.split) for case in mine.cases] == [(7.0, "test"), (7.0, "test"), (8.0, "train"), (9.0, "train")]


def test_folders_called_like_subjects_are_not_bids_by_that_alone(tmp_path):
    for name in ("sub-01/t1.nii.gz", "sub-02/t1.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    source = find_cases(tmp_path)
    assert source.kind == "plain" and [case.patient for case in source.cases] == ["sub-01", "sub-02"]


words = st.text("abXY019", min_size=1, max_size=5)


@given(words, st.lists(st.tuples(st.sampled_from(["ses", "acq", "ce", "run", "space"]), words), unique_by=lambda pair: pair[0]), words)
def test_a_name_is_read_back(subject, entities, suffix):
    from pathlib import Path

    text = "_".join([f"sub-{subject}", *(f"{key}-{value}" for key, value in entities), suffix])
    name = parse(Path(f"anat/{text}.nii.gz"))
    assert name.entities == {"sub": subject, **dict(entities)} and name.suffix == suffix
    assert name.fits(name.contrast) and name.fits(name.contrast.upper())


@pytest.mark.parametrize("text", ["T1w", "sub-01", "sub-01_x_T1w", "ses-1_T1w", "sub-01_T1-w", "sub-_T1w", "sub-01_bold"])
def test_what_is_not_named_as_in_bids(text, tmp_path):
    assert parse(tmp_path / f"anat/{text}.nii.gz") is None


@pytest.mark.parametrize("name, kind", [("T1w_dseg", "m/dseg"), ("T1w_seg", "m/seg"), ("T1w_lesion-manual", "m/label-lesion_mask"),
                                        ("T1w_label-lesion_mask", "m/label-lesion_mask"), ("T1w_seg-manual", "m/seg")])  # fmt: skip
def test_label_maps_that_name_their_image(tmp_path, name, kind):
    source = find_cases(bids(tmp_path, "sub-01_T1w", "sub-01_T2w", f"derivatives/m/sub-01_{name}"), contrasts=["T1w"])
    assert pairs(source) == {"sub-01": (["sub-01_T1w"], f"sub-01_{name}")} and source.notes == (f"images: T1w; label maps: {kind}.",)
    other = find_cases(tmp_path, contrasts=["T2w"])
    assert pairs(other) == {"sub-01": (["sub-01_T2w"], None)} and "1 files that are called as label maps are not used." in other.notes


def test_strange_label_maps_are_told(tmp_path):
    source = find_cases(bids(tmp_path, "sub-01_T1w", "derivatives/m/sub-01_T1w_my_segmentation"))
    assert "1 files that are called as label maps are not used." in source.notes
