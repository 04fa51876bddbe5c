"""Series of a study, named by words of their descriptions, as channels of one case."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from dicom_phantoms import COLUMNS, CT, GAP, MR, ROWS, SLICES, assert_in_place, write_slices
from hypothesis import given
from hypothesis import strategies as st
from test_dicom_segmentation import images, random_mask, write_seg

from medldm.data.check import load_case
from medldm.data.dicom.archive import find_series
from medldm.data.dicom.contrasts import Candidate, choose
from medldm.data.dicom.entries import KEY_COLUMNS
from medldm.data.dicom.geometry import Grid, rows_of
from medldm.data.dicom.wording import names
from medldm.data.layouts import find_cases
from medldm.data.sources import BadCase
from medldm.errors import UserError

GRID = Grid(rows_of(np.eye(4)), (4, 4, 4))


@pytest.mark.parametrize("word, text, found", [
    ("t1", "AX T1 fs", True), ("T1", "t1_mprage_sag", True), ("t1", "T1", True), ("t1", "t1-weighted", True),
    ("t1", "T1W", False), ("t1", "3DT1", False), ("t1", "t10", False), ("t1", "", False),
    ("t1 mprage", "T1_MPRAGE sag", True), ("t1_mprage", "mprage t1", False), ("t2*", "T2 TSE", True), ("*t1*", "3DT1W", True),
    ("t1*", "ax t1", False), ("*mprage", "mprage sag", False), ("t?w", "T1W", True), ("(t1", "(T1) +c", True), ("*[ab]*", "b", False),
    ("größe", "GRÖSSE 3", True), ("脳", "脳 T1", True),
])  # fmt: skip
def test_what_a_word_names(word, text, found):
    assert names(word, text) is found


def candidate(case, text, kind="ORIGINAL", study="a", **about):
    texts = text if isinstance(text, tuple) else (text, "", "")
    return Candidate(
        case, (study,), about.pop("series", case), texts, (kind, "PRIMARY", *about.pop("more", ())), grid=about.pop("grid", GRID), **about
    )


def chosen(candidates, *contrasts):
    """The one study, as {word: case} or as status and reason."""
    (choice,) = choose(candidates, contrasts, Path("archive")).cases
    return {word: case for case, word in choice.members} if choice.status == "ok" else (choice.status, choice.reason)


@pytest.mark.parametrize("series, contrasts, expected", [
    ([("1", "T1"), ("2", "FLAIR")], ["flair", "t1"], {"flair": "2", "t1": "1"}),
    ([("1", "T2 FLAIR"), ("2", "T2 TSE")], ["t2", "flair"], {"t2": "2", "flair": "1"}),  # FLAIR can have one only
    ([("1", "t1_mprage"), ("2", "t1_mprage_ND")], ["t1_mprage"], {"t1_mprage": "1"}),  # the word and nothing else
    ([("1", "t1 sag", "DERIVED"), ("2", "t1 tra")], ["t1"], {"t1": "2"}),
    ([("1", ("", "t1", "")), ("2", ("flair", "t1 t2", ""))], ["t1"], {"t1": "1"}),  # a protocol counts where there is no description
    ([("1", ("AX", "", "*tfl3d1")), ("2", ("AX", "", "*tse2d1"))], ["tfl3d1"], {"tfl3d1": "1"}),
])  # fmt: skip
def test_which_series_is_taken(series, contrasts, expected):
    assert chosen([candidate(*one) for one in series], *contrasts) == expected


def test_a_protocol_counts_where_there_is_no_description():
    """Else it does not: it may name all that an exam holds."""
    three = [candidate("1", "t1"), candidate("2", ("", "t1", ""), study="b"), candidate("3", ("t2", "t1 t2", ""), study="c")]
    choices = choose(three, ["t1"], Path())
    assert [one.members for one in choices.cases] == [(("1", "t1"),), (("2", "t1"),)] and choices.others == {"3"}


def test_preferences_beyond_the_original():
    two = [candidate("1", "t1 a", "DERIVED", more=("MPR",)), candidate("2", "t1 b", "DERIVED")]
    assert chosen(two, "t1") == {"t1": "2"}
    parts = [candidate(str(n), "t1", component=component, series="x") for n, component in enumerate("PM")]
    assert chosen(parts, "t1") == {"t1": "1"}
    assert "In 1 studies" in choose(parts, ["t1"], Path()).notes[0] and not choose(parts[:1], ["t1"], Path()).notes


@pytest.mark.parametrize("series, contrasts, status, words", [
    ([("1", "t1"), ("2", "t2")], ["t1", "flair"], "no_image", "that matches 'flair'"),
    ([("1", "t1 tra"), ("2", "t1 sag")], ["t1"], "channels", "2 series that match 't1'; say it more closely"),
    ([("1", "t1 tra"), ("2", "t1 tra")], ["t1"], "channels", "have one description"),
    ([("1", "t2 flair")], ["t2", "flair"], "channels", "also matches 'flair'"),
])  # fmt: skip
def test_what_is_not_certain_is_refused(series, contrasts, status, words):
    elsewhere = [candidate("9", "flair", study="b")]  # so that every word names something
    own = [candidate(*one) for one in series]
    first, *_ = choose([*own, *elsewhere], contrasts, Path()).cases
    assert first.status == status and words in first.reason
    assert {case for case, _ in first.members} <= {one.case for one in own} and first.members[0][0] == "1"


def test_volumes_of_one_series_are_not_told_apart_by_words():
    parts = [candidate(str(n), "t1", series="x") for n in range(3)]
    status, reason = chosen(parts, "t1")
    assert status == "channels" and "holds 3 volumes" in reason


def test_frames_of_reference():
    one, two = candidate("1", "t1", frame="A"), candidate("2", "flair", frame="B")
    assert chosen([one, two], "t1", "flair") == {"t1": "1", "flair": "2"}  # equal grids
    moved = np.eye(4)
    moved[0, 3] = 0.01
    for grid in (Grid(rows_of(moved), (4, 4, 4)), Grid(rows_of(np.eye(4)), (4, 4, 5))):
        status, reason = chosen([one, replace(two, grid=grid)], "t1", "flair")
        assert status == "grid_mismatch" and "frames of reference" in reason and "align" not in reason
        assert chosen([one, replace(two, grid=grid, frame="A")], "t1", "flair") == {"t1": "1", "flair": "2"}


def test_what_is_set_aside_and_what_stays_bad():
    """A volume that could not be built stays an error where a word names it, or nobody knows what it is."""
    broken = [candidate("2", "t1", grid=None), candidate("3", "dwi", grid=None), candidate("4", ("", "", ""), grid=None)]
    rest = [candidate("1", "t1"), candidate("5", "dwi"), candidate("6", "t1 mpr", "DERIVED"), candidate("7", "dwi", study="b")]
    choices = choose([*broken, *rest], ["t1"], Path())
    assert choices.others == {"3", "5", "6", "7"} and [one.members for one in choices.cases] == [(("1", "t1"),)]
    assert "1 of 2 studies have no volume" in choices.notes[0]
    with pytest.raises(UserError, match="no series that is a volume has 't1'"):
        choose([*broken, candidate("5", "dwi")], ["t1"], Path())


@pytest.mark.parametrize(
    "contrasts, words", [([], "empty"), (["t1", " "], "empty"), (["t1", "T1"], "twice"), (["t1", "t3"], "'t3'"), (["_"], "empty"), (["*"], "empty")]
)
def test_wrong_words(contrasts, words):
    with pytest.raises(UserError, match=words):
        choose([candidate("1", "t1")], contrasts, Path("archive"))


WORDS = ["t1", "t2", "flair", "ce"]


@given(st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=3), st.sampled_from(["ORIGINAL", "DERIVED"])), max_size=6), st.data())
def test_the_order_of_words_and_series_changes_nothing_and_each_word_has_its_own(series, data):
    candidates = [candidate(str(n), " ".join(text), kind) for n, (text, kind) in enumerate(series)]
    candidates.append(candidate("99", " ".join(WORDS), study="other"))
    contrasts = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True))
    results = []
    for order in permutations(contrasts):
        choices = choose(data.draw(st.permutations(candidates)), order, Path())
        taken = [case for choice in choices.cases for case, _ in choice.members]
        assert len(taken) == len(set(taken)) and choices.others | set(taken) == {one.case for one in candidates}
        assert not choices.others & set(taken)
        for choice in choices.cases:
            assert choice.status != "ok" or [word for _, word in choice.members] == list(order)
            assert all(word in candidates[int(case)].texts[0].split() for case, word in choice.members if case != "99")
        results.append({(tuple(sorted(choice.members)) if choice.status == "ok" else choice.status) for choice in choices.cases})
    assert all(result == results[0] for result in results)


def write_study(folder, patient="CANARY-7", study="1.2.3", descriptions=("CANARY t1", "CANARY flair"), **attributes):
    """Series of one study, each in a folder; later ones are brighter by 500."""
    return [
        write_slices(
            folder / str(n), sop_class=MR, SeriesDescription=text, SeriesNumber=n + 1, PatientID=patient, StudyInstanceUID=study,
            change=lambda d, k, n=n: setattr(d, "RescaleIntercept", 500 * n), **attributes,
        ) for n, text in enumerate(descriptions)
    ]  # fmt: skip


def test_contrasts_become_channels_in_the_order_of_the_words(tmp_path):
    write_study(tmp_path / "a", descriptions=("localizer", "CANARY t1", "CANARY flair", "dwi"))
    write_study(tmp_path / "b", patient="CANARY-8", study="1.2.4")
    source = find_cases(tmp_path, contrasts=["FLAIR", "t1"])
    assert source.contrasts == ("FLAIR", "t1") and len({case.patient for case in source.cases}) == 2
    good = [case for case in source.cases if case.status == "ok"]
    assert [case.modality for case in good] == ["MR", "MR"] and [len(case.images) for case in good] == [2, 2]
    for case, shift in zip(sorted(good, key=lambda case: case.case[-2:]), (500, 1000), strict=True):
        image, label = load_case(case)
        assert label is None and image.data.shape == (2, 7, ROWS, SLICES)
        flair, t1 = (image.with_data(channel[None] - below) for channel, below in zip(image.data, (shift, shift - 500), strict=True))
        assert_in_place(flair), assert_in_place(t1)
    assert sorted(case.status for case in source.cases) == ["localizer", "ok", "ok", "other_contrast"]
    alone = {case.case for case in find_cases(tmp_path).cases}
    assert {case.case for case in source.cases} < alone  # names do not change with the words


def test_the_key_tells_series_and_words(tmp_path):
    write_study(tmp_path, descriptions=("CANARY t1", "CANARY flair", "dwi"))
    rows = [dict(zip(KEY_COLUMNS, row, strict=True)) for row in find_series(tmp_path, ["flair", "t1"]).key]
    assert [(row["case"], row["description"], row["contrast"], row["status"]) for row in rows] == [
        ("p001_s02", "CANARY t1", "t1", "ok"), ("p001_s02", "CANARY flair", "flair", "ok"), ("p001_s03", "dwi", "", "other_contrast"),
    ]  # fmt: skip
    assert len({row["series_uid"] for row in rows}) == 3


def test_one_word_picks_one_kind_of_series(tmp_path):
    write_study(tmp_path / "a", descriptions=("CANARY t1", "dwi", "dwi"))
    write_study(tmp_path / "b", study="1.2.4", descriptions=("t2",))
    write_study(tmp_path / "c", patient="CANARY-8", study="1.2.5", descriptions=("t2", "t2"))
    archive = find_series(tmp_path, ["t1"])
    (case,) = (case for case in archive.cases if case.status == "ok")
    assert [image.short for image in case.images] == [case.case] and "2 of 3 studies have no volume" in archive.notes[-1]
    assert len(find_series(tmp_path).cases) == 6
    assert not any("several series" in note for note in find_series(tmp_path / "b").notes)
    assert "2 patients have several series of one modality; choose with --contrasts" in find_series(tmp_path).notes[-1]


def test_series_of_other_grids_are_aligned_by_position(tmp_path):
    write_study(tmp_path, descriptions=("t1",))
    write_slices(tmp_path / "flair", sop_class=MR, SeriesDescription="flair", step=(0.0, 0.0, GAP + 1))
    (case,) = find_cases(tmp_path, contrasts=["t1", "flair"]).cases
    with pytest.raises(BadCase) as refused:
        load_case(case)
    assert "--align true" in refused.value.reason and refused.value.file.endswith("/flair")
    image, _ = load_case(case, align=True)
    for channel in image.data:  # the phantom is linear, so interpolation changes nothing but rounding
        assert_in_place(image.with_data(channel[None]), 0.1)


def test_a_label_map_lies_on_the_grid_of_its_own_series(tmp_path):
    write_study(tmp_path, descriptions=("t1",))
    flair = write_slices(tmp_path / "flair", sop_class=MR, SeriesDescription="flair", step=(0.0, 0.0, GAP + 1))
    mask = np.zeros((SLICES, ROWS, COLUMNS), bool)
    mask[:, 2:5, 1:4] = True  # a column through all slices, wherever they lie
    write_seg(tmp_path / "seg", images(flair), {"lesion": mask})
    (case,) = find_cases(tmp_path, contrasts=["t1", "flair"]).cases
    assert np.isclose(case.label.read().spacing[2], GAP + 1)
    _, label = load_case(case, align=True)
    np.testing.assert_array_equal(label.data[0].numpy(), np.transpose(mask, (2, 1, 0)))


def test_no_alignment_across_frames_of_reference(tmp_path):
    write_study(tmp_path, descriptions=("t1",))
    paths = write_slices(tmp_path / "flair", sop_class=MR, SeriesDescription="flair", FrameOfReferenceUID="1.2.10")
    (case,) = find_cases(tmp_path, contrasts=["t1", "flair"]).cases
    assert case.status == "ok"  # the same grid
    for path in paths:
        path.unlink()
    write_slices(tmp_path / "flair", sop_class=MR, SeriesDescription="flair", FrameOfReferenceUID="1.2.10", step=(0.0, 0.0, GAP + 1))
    (case,) = find_cases(tmp_path, contrasts=["t1", "flair"]).cases
    assert case.status == "grid_mismatch" and not case.images
    with pytest.raises(BadCase):
        load_case(case, align=True)


def test_the_label_map_is_that_of_the_first_contrast_that_has_one(tmp_path):
    t1, flair, dwi = write_study(tmp_path, descriptions=("t1", "flair", "dwi"))
    mask = random_mask(0)
    write_seg(tmp_path / "seg_flair", images(flair), {"lesion": mask})
    write_seg(tmp_path / "seg_dwi", images(dwi), {"a_core": ~mask})
    archive = find_series(tmp_path, ["t1", "flair"])
    (case,) = (case for case in archive.cases if case.status == "ok")
    _, label = load_case(case)
    assert archive.labels == {1: "lesion"} and case.label.short == f"{case.case}_label"  # structures of other series are no labels
    np.testing.assert_array_equal(label.data[0].numpy(), np.transpose(mask, (2, 1, 0)))
    assert "1 files of structures draw on series that are not used" in " ".join(archive.notes)
    write_seg(tmp_path / "seg_t1", images(t1), {"brain": ~mask})
    archive = find_series(tmp_path, ["t1", "flair"])
    assert [row[-1] for row in archive.key if row[7] == "label"] == ["", "", ""]
    assert archive.labels == {1: "brain"} and "2 files of structures" in " ".join(archive.notes)
    np.testing.assert_array_equal(load_case(archive.cases[0])[1].data[0].numpy(), np.transpose(~mask, (2, 1, 0)))


def test_studies_and_persons_are_not_mixed(tmp_path):
    """A T1 and a FLAIR of two days, and of two unknown persons, are no case."""
    write_study(tmp_path / "a", study="1.2.3", descriptions=("t1",))
    write_study(tmp_path / "b", study="1.2.4", descriptions=("flair",))
    nobody = {"patient": "", "PatientName": "", "PatientBirthDate": "", "study": "", "StudyDate": "", "StudyTime": ""}
    write_study(tmp_path / "c", descriptions=("t1",), **nobody)
    write_study(tmp_path / "d", descriptions=("flair",), **nobody)
    assert [case.status for case in find_cases(tmp_path, contrasts=["t1", "flair"]).cases] == ["no_image"] * 4


def test_ct_and_mr_may_be_one_case(tmp_path):
    write_study(tmp_path, descriptions=("t1",))
    write_slices(tmp_path / "ct", sop_class=CT, SeriesDescription="ct")
    (case,) = find_cases(tmp_path, contrasts=["ct", "t1"]).cases
    assert case.status == "ok" and case.modality == "" and load_case(case)[0].data.shape[0] == 2


def test_a_broken_series_that_a_word_names_stays_an_error(tmp_path):
    write_study(tmp_path / "a")[0][2].unlink()
    write_study(tmp_path / "b", patient="other")
    cases = find_cases(tmp_path, contrasts=["t1", "flair"]).cases
    assert sorted(case.status for case in cases) == ["missing_slices", "no_image", "ok"]
    assert [case.status for case in find_cases(tmp_path, contrasts=["flair"]).cases].count("other_contrast") == 2


def test_magnitude_is_preferred_to_phase(tmp_path):
    for number, component in enumerate("PM"):
        about = {"SeriesInstanceUID": "1.2.50", "SeriesDescription": "t1", "ImageType": ["ORIGINAL", "PRIMARY", component]}
        write_slices(tmp_path / component, sop_class=MR, change=lambda d, k, n=number: setattr(d, "RescaleIntercept", 500 * n), **about)
    assert not any("several series" in note for note in find_series(tmp_path).notes)  # it is one
    cases = find_cases(tmp_path, contrasts=["t1"]).cases
    assert sorted(case.status for case in cases) == ["ok", "other_contrast"]
    (image,) = (case.images[0].read() for case in cases if case.status == "ok")
    assert_in_place(image.with_data(image.data - 500))


def test_enhanced_files_have_words_too(tmp_path):
    """A sequence is called otherwise there."""
    write_study(tmp_path, descriptions=("", ""), ProtocolName="", PulseSequenceName="*fl3d1")
    with pytest.raises(UserError, match="'spc'"):
        find_cases(tmp_path, contrasts=["spc"])
    write_slices(tmp_path / "x", sop_class=MR, SeriesDescription="", PulseSequenceName="*spc3d1")
    assert [case.status for case in find_cases(tmp_path, contrasts=["spc3d1"]).cases].count("ok") == 1


def test_words_stay_out_of_what_is_shown(tmp_path):
    write_study(tmp_path, descriptions=("CANARY t1 a", "CANARY t1 b", "CANARY flair", "CANARY dwi"))
    for contrasts in (["t1", "flair"], ["flair", "dwi"], ["t1 a", "t1 b"], None):
        archive = find_series(tmp_path, contrasts)
        shown = [(c.case, c.patient, c.status, c.reason, c.covariates, [image.short for image in c.images]) for c in archive.cases]
        assert "CANARY" not in repr((shown, archive.notes, archive.labels, archive))
        assert "CANARY t1 a" in repr(archive.key)


def test_real_archive_by_words(shared_data):
    """A T1 of 12 slices, and a study with two T1 that are called the same."""
    source = find_cases(shared_data / "dicom", contrasts=["*t1*"])
    folders = {row["case"]: row["folder"].split("/")[0] for row in source.key if row["contrast"]}
    assert {folders[case.case]: case.status for case in source.cases if case.case in folders} == {
        "mr_studyforrest_t1_defaced_subset": "ok",
        "mr_siemens_xa30_enhanced_t1_face": "channels",
    }
    assert sum(case.status == "other_contrast" for case in source.cases) == 9
