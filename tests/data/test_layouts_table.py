"""A CSV file that names the images, and the tables beside images."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medldm.data.covariates import read_covariates
from medldm.data.layouts import find_cases
from medldm.data.tables import read_lines
from medldm.errors import UserError


@pytest.fixture
def write(tmp_path):
    def table(text, name="list.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return table


def test_a_csv_names_files_patients_splits_and_covariates(write, tmp_path):
    text = "case,image,label,patient,split,Age,Site\nb,i/b.nii.gz,l/b.nii.gz,p,test,61,x\na,i/a.nii,,,train,n/a,y\n"
    source = find_cases(write(text))
    a, b = source.cases
    assert source.kind == "table" and source.contrasts == () and source.labelled
    assert (b.case, b.patient, b.split, b.covariates) == ("b", "p", "test", {"age": 61.0, "site": "x"})
    assert (a.images, a.label, a.patient, a.covariates) == ((tmp_path / "i/a.nii",), None, "a", {"age": None, "site": "y"})
    assert b.label == tmp_path / "l/b.nii.gz"


def test_image_columns_are_contrasts(write):
    table = write("subject,image_T1w,image_CT\na,a1.nii,a2.nii\nb,b1.nii,\nc,,\n")
    a, b, c = find_cases(table).cases
    assert [path.name for path in a.images] == ["a1.nii", "a2.nii"] and a.modality == ""
    assert (b.status, b.reason, c.status) == ("channels", "has no CT image.", "no_image")
    chosen = find_cases(table, contrasts=["ct", "T1w"])
    assert chosen.contrasts == ("CT", "T1w") and [path.name for path in chosen.cases[0].images] == ["a2.nii", "a1.nii"]
    only = find_cases(table, contrasts=["CT"])
    assert {case.modality for case in only.cases} == {"CT"}


def test_a_pipe_is_refused(write, tmp_path):
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"row 2: 'a.nii' is no file"):
        find_cases(write("case,image\na,a.nii\n"))


def test_no_contrast_means_all(write):
    assert find_cases(write("case,image\na,a.nii\n"), contrasts=[]).contrasts == ()


def test_other_separators_are_named(write):
    with pytest.raises(UserError, match=r"'case;image;label'.*by commas"):
        find_cases(write("case;image;label\na;a.nii;\n"))


def test_a_row_without_image(write):
    (case,) = find_cases(write("case,image,label\na,,a.nii\n")).cases
    assert (case.status, case.images) == ("no_image", ())


@pytest.mark.parametrize(
    "text, message",
    [
        ("case,label\na,a.nii\n", "a case and 'image'"),
        ("image,age\na.nii,5\n", "a case and 'image'"),
        ("case,image,image_T2\na,a.nii,b.nii\n", "a case and 'image'"),
        ("case,image\na,a.nii\na,b.nii\n", "row 3: case 'a' has a row already"),
        ("case,image\n../a,a.nii\n", "cannot be the name of a file"),
        ("case,image\n.a,a.nii\n", "cannot be the name of a file"),
        ("case,image\n,a.nii\n", "cannot be the name of a file"),
        ("case,image\na,a.png\n", "is no image file .*mha"),
        ("case,image\na,../a.nii\n", "row 2: the path '../a.nii' leaves .*--root"),
        ("case,image\na,/etc/a.nii\n", "row 2: the path '/etc/a.nii' leaves .*--root"),
        ("case,image,split\na,a.nii,dev\n", "split 'dev' is none of"),
        ("case,image,patient,split\na,a.nii,p,test\nb,b.nii,p,val\n", "patient 'p': case 'a' in 'test', case 'b' in 'val'"),
        ("case,image,age\na,a.nii,5\nb,b.nii,old\n", "mixes 1 numbers and 1 words"),
        ("case,image,birth_date\na,a.nii,1990\n", "tell who the patients are"),
        ("case,image\n", "has no rows"),
    ],
)
def test_wrong_lists(write, text, message):
    with pytest.raises(UserError, match=message):
        find_cases(write(text))


def test_paths_stay_below_the_root_also_through_links(write, tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()
    (outside / "x.nii").touch()
    os.symlink(outside, inside / "link")
    for path in ("link/x.nii", str(outside / "x.nii")):
        table = write(f"case,image\na,{path}\n", "in/list.csv")
        with pytest.raises(UserError, match=r"row 2: .* leaves"):
            find_cases(table)
    assert find_cases(write(f"case,image\na,{outside / 'x.nii'}\n"), root=outside).cases[0].images == (outside / "x.nii",)
    assert find_cases(table, root=tmp_path).cases[0].status == "ok"
    with pytest.raises(UserError, match="is not a folder"):
        find_cases(table, root=tmp_path / "absent")
    with pytest.raises(UserError, match=r"--root .* has no meaning"):
        find_cases(inside, root=tmp_path)


def test_a_second_table_wins_over_the_list(write):
    table = write("case,image,age\na,a.nii,1\nb,b.nii,2\n")
    source = find_cases(table, write("case\tage\tsex\na\t9\tF\n", "more.tsv"))
    assert [case.covariates for case in source.cases] == [{"age": 9.0, "sex": "F"}, {"age": 2.0, "sex": None}]
    with pytest.raises(UserError, match="no row belongs to a case"):
        find_cases(table, write("case,age\nz,5\n", "none.csv"))
    with pytest.raises(UserError, match="column 'age' mixes"):
        find_cases(table, write("case,age\na,old\n", "mixed.csv"))


def owners(write, text, cases, **options):
    rows, unknown = read_covariates(write(text), cases, **options)
    return {case: (row.patient, row.covariates) for case, row in rows.items()}, unknown


def test_keys_are_cases_patients_or_beginnings_of_names(write):
    cases = {"A-1_T1": ("A-1_T1",), "A-1_T2": ("A-1_T2",), "A-1-b_T1": ("A-1-b_T1",), "A-10_T1": ("A-10_T1",), "x": ("q",)}
    found, unknown = owners(write, "MRID,Age\nA-1,1\nA-1-b,2\nq,3\nB,4\n", cases)
    assert found == {"A-1_T1": ("A-1", {"age": 1.0}), "A-1_T2": ("A-1", {"age": 1.0}), "A-1-b_T1": ("A-1-b", {"age": 2.0}), "x": ("q", {"age": 3.0})}
    assert unknown == 1


def test_the_column_case_names_cases_only(write):
    found, unknown = owners(write, "case,age\na,1\nb,2\n", {"a": ("a",), "a_1": ("a_1",)})
    assert list(found) == ["a"] and unknown == 1


def test_other_columns_of_persons_are_no_covariates(write):
    found, _ = owners(write, "case,Patient ID,age\na_1,p9,5\n", {"a_1": ("a_1",)})
    assert found == {"a_1": ("p9", {"age": 5.0})}


def test_ambiguous_rows_and_private_keys(write):
    with pytest.raises(UserError, match="2 rows belong to case 's'"):
        owners(write, "participant_id,age\nsub-1,5\n1,6\n", {"s": ("sub-1", "1")})
    with pytest.raises(UserError, match="row 3") as caught:
        owners(write, "PatientID,age\nCANARY,5\nCANARY,6\n", {"p001_s01": ("p001", "CANARY")}, private=True)
    assert "CANARY" not in str(caught.value)
    with pytest.raises(UserError, match=r"row 3 has 'old'") as caught:
        owners(write, "PatientID,age\nCANARY,5\nJOHN,old\nX,6\n", {"p001_s01": ("p001", "CANARY")}, private=True)
    assert "JOHN" not in str(caught.value)
    found, _ = owners(write, "PatientID,age\nCANARY,5\n", {"p001_s01": ("p001", "CANARY")}, private=True)
    assert found == {"p001_s01": ("p001", {"age": 5.0})}


def test_titles_that_become_alike(write):
    with pytest.raises(UserError, match="each name once"):
        read_lines(write("case,Age,age\na,1,2\n"))
    assert read_lines(write("Case,Age (y),Größe\na,1,2\n"))[1] == {"case": "Case", "age_y": "Age (y)", "größe": "Größe"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120) | st.text('ab,"\n\t;/.niimagecsp', max_size=120).map(str.encode))
def test_any_file_is_a_list_or_a_user_error(write, content):
    path = write("")
    path.write_bytes(content)
    try:
        found = find_cases(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert found.kind == "table"
