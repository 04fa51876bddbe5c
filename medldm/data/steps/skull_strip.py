"""Images without what lies outside a mask: of an external tool, or of the label map."""

import base64
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from scipy import ndimage

from medldm.data.steps.base import Change, Step
from medldm.data.steps.grid import Grid, lowest
from medldm.errors import UserError
from medldm.volume import Volume, read_volume, write_volume


@dataclass(frozen=True)
class SkullStrip(Step):
    """Keep what an external tool finds to be brain. Its first channel is what the tool sees; the mask holds for all.

    The tool is started without a shell, once a case, on a NIfTI file with a clean header in a temporary folder. A configuration is
    data and must not start whatever it names: only the tools in `tools` are. For another, derive a class with its name there.

    Args:
        command: program and arguments, among them {image}, the file to read, and {mask}, the file to write: a NIfTI label map on
            the same grid, 0 outside. For example: ["hd-bet", "-i", "{image}", "-o", "{mask}"].
        timeout: seconds before it is stopped.
    """

    command: tuple[str, ...]
    timeout: float = 1800.0

    tools: ClassVar[tuple[str, ...]] = (
        "hd-bet", "mri_synthstrip", "synthstrip-docker", "synthstrip-singularity", "bet", "bet2", "3dSkullStrip", "deepbet-cli", "runROBEX.sh",
    )  # fmt: skip

    def __post_init__(self):
        if not self.command or self.command[0] not in self.tools:
            raise UserError(f"The program {' '.join(self.command[:1])!r} is none of {', '.join(self.tools)}.", "Derive a class that allows it.")
        for name in ("{image}", "{mask}"):
            if not any(name in part for part in self.command[1:]):
                raise UserError(f"The command {' '.join(self.command)!r} has no argument {name}.", "Say where it reads and where it writes.")
        if not self.timeout > 0:
            raise UserError(f"timeout {self.timeout} is not a number of seconds above 0.")

    def plan(self, image: Volume, label: Volume | None = None) -> "Kept":
        """Run the tool on this case.

        Raises:
            UserError: the tool is missing, fails, takes too long, or its mask is missing, empty or on another grid.
        """
        with tempfile.TemporaryDirectory(prefix="medldm-") as folder:
            files = {"{image}": Path(folder) / "image.nii.gz", "{mask}": Path(folder) / "mask.nii.gz"}
            write_volume(files["{image}"], image.with_data(image.data[:1]))
            self._run(files)
            if not files["{mask}"].is_file():
                raise UserError(f"{self.command[0]} wrote no mask.", "Does its argument {mask} name the file of the mask itself?")
            mask = read_volume(files["{mask}"], "label")
        grid = Grid.of(image)
        try:
            grid.expect(mask)
        except UserError as error:
            raise UserError(f"The mask of {self.command[0]} is on another grid than the image.", "Let it write on the grid of its input.") from error
        return Kept.of(grid, (mask.data[0] > 0).numpy(), f"The mask of {self.command[0]}")

    def _run(self, files: dict[str, Path]) -> None:
        command = list(self.command)
        for name, path in files.items():
            command = [part.replace(name, str(path)) for part in command]
        advice = "Try the command by hand on one NIfTI file."
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=self.timeout, check=False)
        except (FileNotFoundError, PermissionError) as error:
            raise UserError(f"The program {self.command[0]!r} cannot be started ({error.strerror}).", "Install it.") from error
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{self.command[0]} took more than {self.timeout:g} s for one image.", "Give a larger timeout.") from error
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise UserError(f"{self.command[0]} failed with exit code {done.returncode}{f': {lines[-1][:200]}' if lines else '.'}", advice)


@dataclass(frozen=True)
class MaskToLabel(Step):
    """Keep what lies in the foreground of the label map or close to it; useful where labels are a parcellation of the brain.

    Args:
        margin_mm: kept around every labelled voxel.
    """

    margin_mm: float = 3.0

    def __post_init__(self):
        if not (np.isfinite(self.margin_mm) and self.margin_mm >= 0):
            raise UserError(f"margin_mm {self.margin_mm} is not a length of at least 0 mm.")

    def plan(self, image: Volume, label: Volume | None = None) -> "Kept":
        """The labelled voxels of this case and those within the margin.

        Raises:
            UserError: there is no label map, or it is empty.
        """
        if label is None:
            raise UserError("Images are to be masked by their label maps, and a case has none.", "Leave this step or the case out.")
        inside = (label.data != 0).any(0).numpy()
        if self.margin_mm and inside.any():
            inside = ndimage.distance_transform_edt(~inside, sampling=image.spacing) <= self.margin_mm
        return Kept.of(Grid.of(image), inside, "The label map")


@dataclass(frozen=True)
class Kept(Change):
    """Images whose voxels outside a mask have the lowest value of their channel; label maps stay as they are.

    Args:
        grid: the grid of the case and of the mask.
        mask: one bit a voxel, last axis fastest, compressed by zlib and written in base64 (a few kilobytes for a brain).
        kept: voxels inside.
        removed: voxels outside.
    """

    grid: Grid
    mask: str
    kept: int
    removed: int

    @classmethod
    def of(cls, grid: Grid, inside: np.ndarray, name: str) -> "Kept":
        """The change for a mask [I J K].

        Raises:
            UserError: the mask is empty.
        """
        kept = int(inside.sum())
        if not kept:
            raise UserError(f"{name} is empty.", "Is the image a head? Leave the case out.")
        packed = base64.b64encode(zlib.compress(np.packbits(inside).tobytes(), 9)).decode()
        return cls(grid, packed, kept, inside.size - kept)

    def __call__(self, volume: Volume) -> Volume:
        """Set what lies outside to the lowest value of each channel.

        Raises:
            UserError: the volume is not on the grid of the mask.
        """
        self.grid.expect(volume)
        if volume.unit == "label":
            return volume
        size = int(np.prod(self.grid.shape))
        bits = zlib.decompressobj().decompress(base64.b64decode(self.mask), size // 8 + 1)
        inside = np.unpackbits(np.frombuffer(bits, np.uint8), count=size).reshape(self.grid.shape).astype(bool)
        return volume.with_data(torch.where(torch.from_numpy(inside), volume.data, lowest(volume.data, volume.unit)))

    def undo(self, volume: Volume) -> Volume:
        """The volume as it is: the grid did not change, and what was removed is known to the source alone."""
        return volume
