"""Plain folders: pairs by name, a folder for each contrast or patient, and a clear refusal where names do not tell."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.data.layouts import find_cases
from medldm.data.layouts.names import by_first_word, is_label, owners
from medldm.errors import UserError


def folder(root, names):
    for name in names:
        (root / f"{name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.nii.gz").touch()
    return root


def pairs(source):
    return {c.case: ([p.name[:-7] for p in c.images], c.label and c.label.name[:-7]) for c in source.cases}


@pytest.mark.parametrize(
    "name, is_one",
    [
        *[(name, True) for name in ("dlmuse_seg", "labels", "labelsTr", "x_mask", "dseg", "lesion_mask", "GT", "rois", "annotations", "brainmask")],
        *[(name, False) for name in ("t1", "android", "images", "example_ct", "gtx", "segovia", "IXI013-HH-1212_T1", "unmasked")],
    ],
)
def test_words_that_mark_label_maps(name, is_one):
    assert is_label(name) is is_one


def test_pipes_are_no_files_and_links_to_nothing_are_kept(tmp_path):
    folder(tmp_path, ["a"])
    os.mkfifo(tmp_path / "pipe.nii.gz")
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere")
    assert set(pairs(find_cases(tmp_path))) == {"a", "gone"}


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"a\xffb")])
def test_names_that_cannot_be_written_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"'a\\.*b' holds characters"):
        find_cases(folder(tmp_path, ["a", name]))


def test_two_folders_without_options(tmp_path):
    source = find_cases(folder(tmp_path, ["t1/a-1_T1", "t1/b-2_T1", "dlmuse_seg/a-1_T1_DLMUSE", "dlmuse_seg/b-2_T1_DLMUSE"]))
    assert pairs(source) == {"a-1_T1": (["a-1_T1"], "a-1_T1_DLMUSE"), "b-2_T1": (["b-2_T1"], "b-2_T1_DLMUSE")}
    assert source.notes == ("images: t1/, label maps: dlmuse_seg/.",) and source.contrasts == ("t1",)
    assert {case.modality for case in source.cases} == {"MR"}


def test_images_with_another_folder_of_label_maps(tmp_path):
    source = find_cases(folder(tmp_path / "a", ["images/x", "masks/x_mask"]))
    assert pairs(source) == {"x": (["x"], "x_mask")} and "masks/" in source.notes[0]
    with pytest.raises(UserError, match="several folders of label maps: masks, seg"):
        find_cases(folder(tmp_path / "b", ["images/x", "masks/x_mask", "seg/x"]))


def test_names_that_share_nothing_but_a_number(tmp_path):
    source = find_cases(folder(tmp_path, ["images/img_01", "images/img_02", "labels/seg_01", "labels/seg_02"]))
    assert pairs(source) == {"img_01": (["img_01"], "seg_01"), "img_02": (["img_02"], "seg_02")}


@pytest.mark.parametrize(
    "t1, t2",
    [("t1/{}", "t2/{}"), ("t1/{}_T1", "t2/{}_T2"), ("t1/{}_mprage_x", "t2/{}_tse"), ("t1/T1_{}", "t2/T2_{}")],
)
def test_contrast_folders_are_chosen(tmp_path, t1, t2):
    source = folder(tmp_path, [name.format(case) for case in ("s-1", "s-2", "s-3") for name in (t1, t2, "seg/{}")])
    (tmp_path / t2.format("s-3")).with_suffix(".nii.gz").unlink()
    with pytest.raises(UserError, match=r"several contrasts: t1 \(3\), t2 \(2\).*--contrasts '\[t1, t2\]'"):
        find_cases(source)
    one, _, two = find_cases(source, contrasts=["T2", "t1"]).cases
    assert [case.split("-")[-1] for case in (one.case, two.case)] == ["1", "3"]
    assert [path.parent.name for path in one.images] == ["t2", "t1"] and one.label.name == "s-1.nii.gz" and one.status == "ok"
    assert (two.status, two.reason) == ("channels", "has no t2 image.")
    assert find_cases(source, contrasts=["t1"]).contrasts == ("t1",)


def test_contrast_folders_need_known_words_or_an_option(tmp_path):
    source = folder(tmp_path, ["first/a", "first/b", "second/a", "second/b"])
    assert [len(case.images) for case in find_cases(source, contrasts=["first", "second"]).cases] == [2, 2]
    with pytest.raises(UserError, match="several contrasts"):
        find_cases(source)
    with pytest.raises(UserError, match="no contrast 'third'; it holds"):
        find_cases(source, contrasts=["third"])


def test_contrast_folders_without_common_names(tmp_path):
    with pytest.raises(UserError, match="no name in t1/, t2/ belongs to one in another"):
        find_cases(folder(tmp_path, ["t1/a", "t1/b", "t2/c", "t2/d"]))


def test_a_flat_folder_pairs_by_suffix(tmp_path):
    source = find_cases(folder(tmp_path, ["x", "x_seg", "y-1", "y-1_label", "z", "z_lesion_mask", "w"]))
    assert pairs(source) == {"x": (["x"], "x_seg"), "y-1": (["y-1"], "y-1_label"), "z": (["z"], "z_lesion_mask"), "w": (["w"], None)}
    with pytest.raises(UserError, match="both label maps of case 'x'"):
        find_cases(folder(tmp_path, ["x_mask"]))


def test_contrasts_in_a_flat_folder(tmp_path):
    source = folder(tmp_path, ["p1_t1", "p1_flair", "p1_seg", "p2_t1", "p2_flair"])
    with pytest.raises(UserError, match=r"several contrasts"):
        find_cases(source)
    found = find_cases(source, contrasts=["flair", "t1"])
    assert pairs(found) == {"p1": (["p1_flair", "p1_t1"], "p1_seg"), "p2": (["p2_flair", "p2_t1"], None)}
    assert found.contrasts == ("flair", "t1")


def test_one_contrast_in_names_changes_nothing(tmp_path):
    assert list(pairs(find_cases(folder(tmp_path, ["s1_T1W", "s2_T1W"])))) == ["s1_T1W", "s2_T1W"]
    with pytest.raises(UserError, match="tell no contrasts"):
        find_cases(folder(tmp_path / "b", ["s1", "s2"]), contrasts=["t1"])


def test_a_label_map_of_no_certain_image_is_reported(tmp_path):
    source = find_cases(folder(tmp_path, ["e_ct", "e_ct_sm", "e_mr_sm", "e_seg", "e_seg_mr"]))
    assert pairs(source)["e_mr_sm"] == (["e_mr_sm"], "e_seg_mr")
    (bad,) = [case for case in source.cases if case.status != "ok"]
    assert (bad.case, bad.status, bad.images) == ("e_seg", "no_image", ()) and "e_ct, e_ct_sm, e_mr_sm fit" in bad.reason
    assert any(note.startswith("1 label maps are of no image") and "CSV" in note for note in source.notes)
    assert {case.case: case.modality for case in source.cases if case.images} == {"e_ct": "CT", "e_ct_sm": "CT", "e_mr_sm": "MR"}


@pytest.mark.parametrize("style", ["{p}/{c}", "{p}/{p}_{c}", "{p}/{p}-{c}", "{p}/ses-1/{c}", "{p}/ses-1/{p}_ses-1_{c}"])
def test_a_folder_for_each_patient(tmp_path, style):
    names = [style.format(p=patient, c=kind) for patient in ("p01", "p02", "p03") for kind in ("t1", "seg")]
    source = find_cases(folder(tmp_path, names))
    assert [case.patient for case in source.cases] == ["p01", "p02", "p03"] and source.contrasts == ("t1",)
    assert [case.case for case in source.cases] == ["_".join(n.split("/")[:-1]) for n in names[::2]]
    assert all(case.label.name.endswith("seg.nii.gz") and len(case.images) == 1 and case.status == "ok" for case in source.cases)


def test_brats(tmp_path):
    names = [f"B-{n:03d}/B-{n:03d}_{kind}" for n in range(3) for kind in ("t1", "t1ce", "t2", "flair", "seg")]
    source = folder(tmp_path, names)
    with pytest.raises(UserError, match=r"flair \(3\)"):
        find_cases(source)
    found = find_cases(source, contrasts=["t1ce", "flair"])
    assert pairs(found)["B-001"] == (["B-001_t1ce", "B-001_flair"], "B-001_seg") and len(found.cases) == 3


def test_visits_of_a_patient_stay_together(tmp_path):
    names = [f"{patient}/{visit}/t1" for patient in ("a", "b", "c") for visit in ("baseline", "m12")]
    source = find_cases(folder(tmp_path, names))
    assert [(case.case, case.patient) for case in source.cases][:2] == [("a_baseline", "a"), ("a_m12", "a")]
    assert "of 3 patients" in source.notes[0]


def test_scans_in_a_patients_folder_stay_together_but_collections_do_not(tmp_path):
    few = find_cases(folder(tmp_path / "few", ["a/x", "a/y", "b/z", "c/w"]))
    assert [case.patient for case in few.cases] == ["a", "a", "b", "c"]
    many = find_cases(folder(tmp_path / "many", [f"{site}/{site}x{n}{n}" for site in "ab" for n in range(9)]))
    assert len({case.patient for case in many.cases}) == 18
    one = find_cases(folder(tmp_path / "one", ["all/x", "all/y"]))
    assert [case.patient for case in one.cases] == ["all_x", "all_y"]


@pytest.mark.parametrize("names", [["train/images/x", "train/labels/x"], ["p/x", "q/masks/x", "q/img/y"]])
def test_undecidable_trees_are_refused(tmp_path, names):
    with pytest.raises(UserError, match=r"cannot be told.*CSV with the columns case, image and label"):
        find_cases(folder(tmp_path, names))


def test_two_cases_of_one_name(tmp_path):
    with pytest.raises(UserError, match="two cases would be called 'a_b'"):
        find_cases(folder(tmp_path, ["a/b/t1", "a_b/t1"]))


def test_hidden_folders_are_passed_over(tmp_path):
    assert list(pairs(find_cases(folder(tmp_path, ["x", ".cache/y", "sub/.z"])))) == ["x"]


names = st.text("ab1_-.", min_size=1, max_size=8).filter(lambda n: n[0] in "ab1" and n[-1] in "ab1")


@settings(max_examples=200, deadline=None)
@given(st.sets(names, min_size=1, max_size=6), st.sampled_from(["_seg", "-label", ".mask", "_lesion_mask", "_seg_v2"]))
def test_every_image_gets_the_label_map_that_continues_its_name(images, ending):
    for image in images:
        assert owners(image + ending, by_first_word(sorted(images))) == [image]


def test_ixi_needs_no_options(shared_data):
    source = find_cases(shared_data / "brains/ixi_hh_2mm")
    assert len(source.cases) == 90 and source.missing_rows == 0 and all(case.label and len(case.images) == 1 for case in source.cases)
    assert all(case.label.name.startswith(case.case) and case.case.startswith(case.patient) for case in source.cases)
    assert len({case.patient for case in source.cases}) == 90
    assert all(15 < case.covariates["age"] < 95 and case.covariates["sex"] in ("F", "M") for case in source.cases)


def test_mixed_ct_folder(shared_data):
    source = find_cases(shared_data / "ct")
    assert {case.case.removeprefix("totalsegmentator_") for case in source.cases if case.modality == "CT"} == {
        "example_ct",
        "example_ct_sm",
        "aorta_report_ct_cropped",
    }
    assert sum(case.status == "no_image" for case in source.cases) == 2
    (lung,) = [case for case in source.cases if case.case.startswith("elastix_lung")]
    assert (lung.images[0].suffix, lung.modality, lung.status) == (".mha", "", "ok")
    assert source.notes[0].startswith("Each image is a case; no folder tells the patient")
    assert len(source.cases) == 8 and all(case.patient == case.case for case in source.cases)
    with pytest.raises(UserError, match="cannot be told"):
        find_cases(shared_data / "brains")


parts = st.sampled_from(["a", "b", "p1", "p2", "t1", "t2", "flair", "seg", "mask", "images", "labels", "sub-1", "ses-1", "T1w"])
stems = st.lists(parts, min_size=1, max_size=3).map("_".join)
trees = st.sets(st.tuples(st.lists(parts, max_size=2).map(tuple), stems), min_size=1, max_size=8)


@settings(max_examples=120, deadline=None)
@given(trees, st.none() | st.lists(st.sampled_from(["t1", "t2", "flair", "T1w"]), min_size=1, max_size=2))
def test_any_tree_is_understood_or_refused_and_no_file_is_of_two_cases(tmp_path_factory, files, contrasts):
    root = tmp_path_factory.mktemp("tree")
    folder(root, ["/".join([*folders, name]) for folders, name in files])
    try:
        source = find_cases(root, contrasts=contrasts)
    except UserError as error:
        assert str(error).count(".") > 0
        return
    used = [path for case in source.cases for path in case.files]
    assert len(set(used)) == len(used) and len({case.case for case in source.cases}) == len(source.cases)
    assert all(path.is_file() for path in used)
    assert source.kind == "bids" or contrasts or len(used) == len(files) or (root / "images").is_dir()
    assert all(len(case.images) == max(1, len(source.contrasts)) for case in source.cases if case.status == "ok")


def test_visits_without_patients_are_told(tmp_path):
    source = find_cases(folder(tmp_path, ["images/a_v1", "images/a_v2", "images/b_v1", "images/c"]))
    assert "2 cases are called as visits of 1 patients are (a_v1, a_v2 ...)" in source.notes[-1]
    (tmp_path / "covariates.csv").write_text("case,patient\na_v1,a\na_v2,a\n")
    assert not [note for note in find_cases(tmp_path).notes if "visits" in note]


def test_a_folder_of_data_sets_is_named(tmp_path):
    with pytest.raises(UserError, match=r"holds 1 data sets.*Dataset012_Hip"):
        find_cases(folder(tmp_path, ["Dataset012_Hip/imagesTr/a_0000"]))
