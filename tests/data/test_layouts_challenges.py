"""MSD and nnU-Net: lists in dataset.json, contrasts by name, labelled test cases."""

import json

import pytest
import torch

from medldm.data.layouts import find_cases
from medldm.data.layouts.challenges import Channels
from medldm.data.sources import BadCase
from medldm.errors import UserError
from medldm.volume import Volume, write_volume


def challenge(root, names, **about):
    for name in names:
        (root / f"{name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.nii.gz").touch()
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def test_the_list_of_the_decathlon_counts(tmp_path):
    training = [
        {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/mask_of_a.nii.gz"},
        {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
    ]
    names = ["imagesTr/a", "imagesTr/b", "imagesTr/c", "labelsTr/mask_of_a"]
    source = find_cases(challenge(tmp_path, names, modality={"0": "CT"}, labels={"0": "background", "1": "x"}, training=training))
    assert [(case.case, case.label.name, case.modality) for case in source.cases] == [("a", "mask_of_a.nii.gz", "CT"), ("b", "b.nii.gz", "CT")]
    assert (
        source.kind == "msd"
        and source.contrasts == ("CT",)
        and source.notes == ("1 files of imagesTr/ are not listed in dataset.json and are left out.",)
    )


@pytest.mark.parametrize(
    "training, message",
    [
        ([{"image": "../../x.nii.gz"}], "leaves the folder"),
        ([{"image": "/etc/x.nii.gz"}], "leaves the folder"),
        ([{"image": 5}], "no list of images"),
        ("imagesTr", "no list of images"),
        ([{"image": "imagesTr/a.nii.gz"}, {"image": "imagesTr/a.nii.gz"}], "twice"),
    ],
)
def test_wrong_lists_of_the_decathlon(tmp_path, training, message):
    with pytest.raises(UserError, match=message):
        find_cases(challenge(tmp_path, ["imagesTr/a"], training=training))


def test_contrasts_of_nnunet_are_picked_and_ordered(tmp_path):
    names = ["imagesTr/c_0000", "imagesTr/c_0001", "imagesTr/d_0000", "labelsTr/c", "labelsTr/d"]
    source = challenge(tmp_path, names, channel_names={"1": "FLAIR", "0": "T1w"}, labels={"background": 0, "tumour": 1, "ignore": 2})
    assert find_cases(source).contrasts == ("T1w", "FLAIR")
    found = find_cases(source, contrasts=["flair", "T1w"])
    assert [path.name for path in found.cases[0].images] == ["c_0001.nii.gz", "c_0000.nii.gz"] and found.cases[0].modality == "MR"
    assert found.cases[1].status == "channels" and found.labels == {1: "tumour", 2: "ignore"} and "'ignore'" in found.notes[0]
    with pytest.raises(UserError, match="no contrast 'CT'; it holds T1w"):
        find_cases(source, contrasts=["CT"])


def test_channels_of_one_file_are_picked(tmp_path):
    source = challenge(tmp_path, ["labelsTr/a"], modality={"0": "FLAIR", "1": "T1w", "2": "T2w"})
    data = torch.arange(24.0).reshape(3, 2, 2, 2)
    write_volume(tmp_path / "imagesTr/a.nii.gz", Volume(data, torch.eye(4).double().numpy()))
    assert find_cases(source).cases[0].images == (tmp_path / "imagesTr/a.nii.gz",)
    (image,) = find_cases(source, contrasts=["T2w", "FLAIR"]).cases[0].images
    assert torch.equal(image.read().data, data[[2, 0]]) and image.short == "imagesTr/a.nii.gz" and image.files == (tmp_path / "imagesTr/a.nii.gz",)
    with pytest.raises(BadCase, match="has 3 channels"):
        Channels(tmp_path / "imagesTr/a.nii.gz", (3,)).read()
    with pytest.raises(BadCase, match="NIfTI"):
        Channels(tmp_path / "labelsTr/a.nii.gz", (0,)).read()


def test_normalisations_are_no_contrasts(tmp_path):
    source = find_cases(challenge(tmp_path, ["imagesTr/c_0000", "imagesTr/c_0001"], channel_names={"0": "noNorm", "1": "noNorm"}))
    assert source.contrasts == () and len(source.cases[0].images) == 2 and source.cases[0].modality == ""


def test_labelled_test_cases_are_the_test_split(tmp_path):
    names = ["imagesTr/a_0000", "labelsTr/a", "imagesTs/b_0000", "labelsTs/b", "imagesTs/c_0000", "labelsTs/z"]
    source = find_cases(challenge(tmp_path, names, channel_names={"0": "CT"}))
    assert [(case.case, case.split, case.status) for case in source.cases] == [("a", "", "ok"), ("b", "test", "ok"), ("z", "test", "no_image")]
    assert source.notes == ("1 images of imagesTs/ have no label maps and are left out.",)


def test_without_any_label_map_all_images_count(tmp_path):
    source = find_cases(challenge(tmp_path, ["imagesTr/a", "imagesTs/b"], modality={"0": "MRI"}))
    assert [(case.case, case.split) for case in source.cases] == [("a", ""), ("b", "test")]


def test_the_same_case_in_both_parts(tmp_path):
    with pytest.raises(UserError, match="case 'a' is in imagesTr and in imagesTs"):
        find_cases(challenge(tmp_path, ["imagesTr/a", "imagesTs/a"]))
