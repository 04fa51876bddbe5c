"""Data steps. All are imported here, so that the help of commands names them and configurations may use their bare names."""

from medldm.data.steps.bias_field import BiasField
from medldm.data.steps.crop_pad import CropToForeground, FitShape, PadToMultiple
from medldm.data.steps.harmonise import HarmoniseResolution
from medldm.data.steps.intensity import Percentile, Window, ZScore
from medldm.data.steps.nyul import Nyul
from medldm.data.steps.reorient import Reorient
from medldm.data.steps.resample import Resample
from medldm.data.steps.skull_strip import MaskToLabel, SkullStrip

__all__ = [
    "BiasField", "CropToForeground", "FitShape", "HarmoniseResolution", "MaskToLabel", "Nyul", "PadToMultiple", "Percentile", "Reorient",
    "Resample", "SkullStrip", "Window", "ZScore",
]  # fmt: skip
