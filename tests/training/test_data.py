"""What crops are cut, and what is said where none can be."""

from types import SimpleNamespace

import pytest

from medldm.errors import UserError
from medldm.training.data import crop_size


def cohort(*shapes):
    return [SimpleNamespace(shape=shape) for shape in shapes]


def test_a_crop_fits_every_case_and_is_made_of_cells():
    assert crop_size(cohort((31, 70, 26), (40, 300, 30)), 4, None) == (24, 64, 24)
    assert crop_size(cohort((7, 9, 6)), 4, None) == (4, 8, 4)
    assert crop_size(cohort((31, 70, 26)), 4, (28, 68, 4)) == (28, 68, 4)


@pytest.mark.parametrize(("shape", "wanted", "said"), [
    ((31, 3, 26), None, "smallest case has 31x3x26 voxels, less than one latent cell of 4"),
    ((31, 40, 26), (24, 40, 26), r"multiples of 4 are possible, up to \(31, 40, 26\)"),
    ((31, 40, 26), (-4, 4, 4), "multiples of 4"),
    ((31, 40, 26), (24, 44, 24), "does not fit the smallest case"),
])  # fmt: skip
def test_a_crop_that_cannot_be_is_refused(shape, wanted, said):
    with pytest.raises(UserError, match=said):
        crop_size(cohort(shape), 4, wanted)
