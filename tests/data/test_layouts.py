"""Source folders: which files form a case. No voxel is read, so the files are empty."""

import json

import pytest

from medldm.data.layouts import find_cases, label_names
from medldm.errors import UserError


def folder(root, *names, **documents):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, content in documents.items():
        (root / f"{name}.{'json' if name == 'dataset' else 'csv'}").write_text(json.dumps(content) if name == "dataset" else content)
    return root


def pairs(source):
    return {c.case: ([p.name for p in c.images], c.label and c.label.name) for c in source.cases}


def test_msd(tmp_path):
    names = ["imagesTr/a_1.nii.gz", "imagesTr/._a_1.nii.gz", "labelsTr/a_1.nii.gz", "imagesTs/a_2.nii.gz"]
    source = find_cases(folder(tmp_path, *names, dataset={"labels": {"0": "background", "2": "Posterior part", "1": "Anterior"}}))
    assert source.kind == "msd" and source.labelled
    assert source.labels == {1: "Anterior", 2: "Posterior_part"}
    assert pairs(source) == {"a_1": (["a_1.nii.gz"], "a_1.nii.gz")}


def test_nnunet_contrasts_are_channels_of_one_case(tmp_path):
    names = ["imagesTr/c_0000.nii", "imagesTr/c_0001.nii", "labelsTr/c.nii"]
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "tumour": 1}, "file_ending": ".nii"}
    source = find_cases(folder(tmp_path, *names, dataset=about))
    assert source.kind == "nnunet" and source.labels == {1: "tumour"}
    assert pairs(source) == {"c": (["c_0000.nii", "c_0001.nii"], "c.nii")}


@pytest.mark.parametrize("names", [["imagesTr/c_0001.nii.gz"], ["imagesTr/c.nii.gz"], ["imagesTr/c_0000.nii.gz", "imagesTr/c_0002.nii.gz"]])
def test_nnunet_contrasts_without_a_gap(tmp_path, names):
    with pytest.raises(UserError, match="without a gap"):
        find_cases(folder(tmp_path, *names, dataset={"channel_names": {"0": "T1"}}))


def test_nnunet_other_endings_and_regions_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'\.png' is not read"):
        find_cases(folder(tmp_path / "png", "imagesTr/c_0000.png", dataset={"file_ending": ".png"}))
    regions = folder(tmp_path / "regions", "imagesTr/c_0000.nii.gz", dataset={"file_ending": ".nii.gz", "labels": {"whole": [1, 2]}})
    with pytest.raises(UserError, match=r"'whole' has the label \[1, 2\]"):
        find_cases(regions)
    assert find_cases(regions, labels={"part": 1}).labels == {1: "part"}


def test_plain_pairs_by_name_or_longest_case_with_suffix(tmp_path):
    images = ["images/p1.nii.gz", "images/p1_b.nii.gz", "images/p2.nii"]
    maps = ["labels/p1_seg.nii.gz", "labels/p1_b_seg.nii.gz", "labels/p2.nii.gz", "labels/p9.nii.gz"]
    source = find_cases(folder(tmp_path, *images, *maps))
    assert source.kind == "plain" and source.labels == {}
    assert pairs(source) == {
        "p1": (["p1.nii.gz"], "p1_seg.nii.gz"),
        "p1_b": (["p1_b.nii.gz"], "p1_b_seg.nii.gz"),
        "p2": (["p2.nii"], "p2.nii.gz"),
        "p9": ([], "p9.nii.gz"),
    }


def test_a_folder_of_files(tmp_path):
    source = find_cases(folder(tmp_path, "x.nii.gz", "y.nii.gz", "notes.txt"))
    assert [c.case for c in source.cases] == ["x", "y"] and not source.labelled


def test_what_is_no_source(tmp_path):
    with pytest.raises(UserError, match=r"holds no image file \(\.nii\.gz.*Known layouts"):
        find_cases(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        find_cases(tmp_path / "absent")
    with pytest.raises(UserError, match="not valid JSON"):
        (tmp_path / "dataset.json").write_text("<html>")
        find_cases(tmp_path)


@pytest.mark.parametrize("names", [["images/a.nii", "images/a.nii.gz"], ["images/a.nii", "labels/a_seg.nii", "labels/a_mask.nii"]])
def test_ambiguous_files(tmp_path, names):
    with pytest.raises(UserError, match="both"):
        find_cases(folder(tmp_path, *names))


def test_covariates(tmp_path):
    table = "\ufeffcase,patient,split,age,sex\na.nii.gz,p,train,61,F\nb,p,train,n/a,\nghost,q,test,5,M\n"
    source = find_cases(folder(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "images/c.nii.gz", covariates=table))
    a, b, c = source.cases
    assert (a.patient, a.split, a.covariates) == ("p", "train", {"age": 61.0, "sex": "F"})
    assert (b.patient, b.covariates) == ("p", {"age": None, "sex": None})
    assert (c.patient, c.split, c.covariates) == ("c", "", {"age": None, "sex": None})
    assert (source.unknown_rows, source.missing_rows) == (1, 1)


@pytest.mark.parametrize(
    "table, message",
    [
        ("person,age\nx,5\n", "one 'case' were expected"),
        ('case,age\na,"30,5"\nb,"31,0"\n', "'30,5', a number with a comma"),
        ("case,sex\na,m\nb,M\n", "has both 'm' and 'M'"),
        ("", "columns nothing"),
        ("case;age\na;5\n", "single column, 'case;age'"),
        ("case,age\na,5\na,6\n", "row 3: case 'a' has a row already"),
        ("case,age\n,5\n", "row 2: the cell of column 'case' is empty"),
        ("case,age\na,5,6\n", "row 2: the number of cells"),
        ("case,age\na\n", "row 2: the number of cells"),
        ("case,status\na,fine\n", "status have a fixed meaning"),
        ("case,split\na,training\n", "split 'training' is none of"),
        ("case,age\na,5\nb,45Y\nc,6\n", r"column 'age' mixes 2 numbers and 1 words \(case 'b' has '45Y'\)"),
        ("case,age\na,inf\n", "case 'a' has inf"),
        ("case,patient,split\na,p,train\nb,p,test\n", "patient 'p': case 'a' in 'train', case 'b' in 'test'"),
    ],
)
def test_a_wrong_table_names_row_or_column(tmp_path, table, message):
    source = folder(tmp_path, "images/a.nii.gz", "images/b.nii.gz", covariates=table)
    with pytest.raises(UserError, match=message):
        find_cases(source)


def test_a_table_that_is_no_text(tmp_path):
    folder(tmp_path, "images/a.nii.gz")
    (tmp_path / "t.csv").write_bytes(b"case,age\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        find_cases(tmp_path, tmp_path / "t.csv")
    with pytest.raises(UserError, match="does not exist"):
        find_cases(tmp_path, tmp_path / "absent.csv")


@pytest.mark.parametrize("given", [{"a": 1, "b": 1}, {"a": -1}, {"a": 1.5}, {"a": True}, {"1": "x", "2": "x"}, ["a"], {"??": 1}])
def test_wrong_label_names(tmp_path, given):
    with pytest.raises(UserError):
        label_names(tmp_path, given)
