"""Raw data of ISMRMRD: lines find their places, read-outs their field of view, the body its place in space."""

import numpy as np
import pytest

from medldm.commands.measured_ismrmrd import read_ismrmrd
from medldm.errors import UserError

ismrmrd = pytest.importorskip("ismrmrd", reason="ismrmrd is not installed")

X, Y, Z, COILS = 12, 10, 8, 2
VIEW = (24.0, 15.0, 16.0)  # millimetres
GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.standard_normal((COILS, X, Y, Z)) + 1j * GENERATOR.standard_normal((COILS, X, Y, Z))


def transform(a, axes):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(a, axes=axes), axes=axes, norm="ortho"), axes=axes)


def header(trajectory="cartesian", z=Z, view=VIEW):
    schema = ismrmrd.xsd

    def space(x, width):
        return schema.encodingSpaceType(
            matrixSize=schema.matrixSizeType(x=x, y=Y, z=z), fieldOfView_mm=schema.fieldOfViewMm(x=width, y=view[1], z=view[2])
        )

    def limit(n):
        return schema.limitType(minimum=0, maximum=n - 1, center=n // 2)

    encoding = schema.encodingType(
        encodedSpace=space(2 * X, 2 * view[0]),
        reconSpace=space(X, view[0]),
        encodingLimits=schema.encodingLimitsType(kspace_encoding_step_1=limit(Y), kspace_encoding_step_2=limit(z)),
        trajectory=schema.trajectoryType(trajectory),
    )
    conditions = schema.experimentalConditionsType(H1resonanceFrequency_Hz=123456789)
    return schema.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding])


def written(path, lines, head):
    """A file of (data [coils samples], index, other header fields) lines."""
    with ismrmrd.File(str(path), "w") as file:
        acquisitions = []
        for data, index, fields in lines:
            line = ismrmrd.Acquisition.from_array(data.astype(np.complex64), center_sample=fields.pop("center", X), **fields)
            for name, value in index.items():
                setattr(line.idx, name, value)
            acquisitions.append(line)
        file["dataset"].header = head
        file["dataset"].acquisitions = acquisitions
    return path


def oversampled(image):
    """K-space of twice the field of view along the read-out."""
    wide = np.zeros((image.shape[0], 2 * X, *image.shape[2:]), complex)
    wide[:, X // 2 : X // 2 + X] = image
    return wide


def every_line(**fields):
    k = transform(oversampled(IMAGE), (1, 2, 3))
    places = [(y, z) for y in range(Y) for z in range(Z) if (y + z) % 3]
    return [(k[:, :, y, z], {"kspace_encode_step_1": y, "kspace_encode_step_2": z}, dict(fields)) for y, z in places], places


def test_lines_of_a_volume_become_kspace_of_its_field_of_view(tmp_path):
    turned = {"read_dir": (0, 1, 0), "phase_dir": (1, 0, 0), "slice_dir": (0, 0, -1), "position": (3, 4, 5)}
    lines, places = every_line(**turned)
    flags = (ismrmrd.ACQ_IS_NOISE_MEASUREMENT, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_NAVIGATION_DATA)
    others = [(GENERATOR.standard_normal((COILS, 2 * X)), {}, {"flags": 1 << (flag - 1)}) for flag in flags]
    others.append((GENERATOR.standard_normal((COILS, 2 * X)), {}, {"encoding_space_ref": 1}))
    arrays = read_ismrmrd(written(tmp_path / "scan.h5", [*others, *lines, lines[0]], header()))
    mask = np.zeros((Y, Z), bool)
    mask[tuple(np.array(places).T)] = True
    assert arrays["kspace"].shape == (COILS, X, Y, Z) and (arrays["mask"] == mask).all()
    assert np.allclose(arrays["kspace"], transform(IMAGE, (1, 2, 3)) * mask, atol=1e-4)
    affine = arrays["affine"]
    assert np.allclose(affine[:3, :3], [[0, -1.5, 0], [-2, 0, 0], [0, 0, -2]]), "to the right, the front and up, in millimetres"
    assert np.allclose(affine @ [X // 2, Y // 2, Z // 2, 1], [-3, -4, 5, 1])


def test_slices_become_a_volume(tmp_path):
    k = transform(oversampled(IMAGE), (1, 2))
    lines = [
        (
            k[:, :, y, z],
            {"kspace_encode_step_1": y, "slice": z},
            {"position": (0, 0, 3.0 * z), "slice_dir": (0, 0, 1), "read_dir": (1, 0, 0), "phase_dir": (0, 1, 0)},
        )
        for z in range(Z)
        for y in range(0, Y, 2)
    ]
    kept = [(data, index, dict(fields)) for data, index, fields in lines]
    arrays = read_ismrmrd(written(tmp_path / "slices.h5", lines, header(z=1, view=(24.0, 15.0, 2.0))))
    mask = np.zeros((Y, 1), bool)
    mask[::2] = True
    assert np.allclose(arrays["kspace"], transform(IMAGE, (1, 2, 3)) * mask, atol=1e-4)
    assert np.allclose(np.linalg.norm(arrays["affine"][:3, :3], axis=0), [2, 1.5, 3]), "slices lie 3 mm apart, whatever their thickness"
    order = [0, 3, 6, 1, 4, 7, 2, 5]  # as they were measured
    shuffled = [(data, index | {"slice": order.index(index["slice"])}, dict(fields)) for data, index, fields in kept]
    again = read_ismrmrd(written(tmp_path / "shuffled.h5", shuffled, header(z=1, view=(24.0, 15.0, 2.0))))
    assert np.allclose(again["kspace"], arrays["kspace"]) and np.allclose(again["affine"], arrays["affine"])
    gap = [(data, index, fields | {"position": (0, 0, 3.0 * index["slice"] + 9 * (index["slice"] > 3))}) for data, index, fields in kept]
    with pytest.raises(UserError, match="evenly"):
        read_ismrmrd(written(tmp_path / "gap.h5", gap, header(z=1)))
    with pytest.raises(UserError, match="other lines"):
        read_ismrmrd(written(tmp_path / "uneven.h5", lines[1:], header(z=1)))


def test_echoes_that_begin_late_keep_the_whole_read_out(tmp_path):
    lines, _ = every_line()
    late = [(data[:, 4:], index, fields | {"center": X - 4}) for data, index, fields in lines]
    arrays = read_ismrmrd(written(tmp_path / "late.h5", late, header()))
    assert arrays["kspace"].shape[1] == 2 * X and not arrays["mask"][:4].any() and arrays["mask"][4:].any((1, 2)).all()
    assert np.allclose(arrays["kspace"], transform(oversampled(IMAGE), (1, 2, 3)) * arrays["mask"], atol=1e-4)


def test_what_is_no_single_cartesian_image_is_refused(tmp_path):
    lines, _ = every_line()
    again = [(data, index | {"repetition": 1}, dict(fields)) for data, index, fields in lines]
    outside = [(lines[0][0], {"kspace_encode_step_1": Y}, {})]
    for name, content, head, message in (
        ("spiral", lines, header("spiral"), "spiral"),
        ("twice", [*lines, *again], header(), "repetition"),
        ("outside", outside, header(), "outside"),
        ("reversed", [(lines[0][0], lines[0][1], {"flags": 1 << (ismrmrd.ACQ_IS_REVERSE - 1)})], header(), "backwards"),
    ):
        with pytest.raises(UserError, match=message):
            read_ismrmrd(written(tmp_path / f"{name}.h5", content, head))
    (tmp_path / "text.h5").write_text("no data")
    with pytest.raises(UserError, match="cannot be read"):
        read_ismrmrd(tmp_path / "text.h5")
