"""Feature networks from local files; nothing is ever downloaded."""

from pathlib import Path

from torch import Tensor

from medldm.errors import UserError
from medldm.files import sha256
from medldm.models.feature_net import FeatureNet
from medldm.models.resnet_features import ResNetFeatures
from medldm.models.weight_files import read_weights
from medldm.run import load_model

WANTED = (
    "Give the folder of a `medldm train-features` run; or MedicalNet's resnet_10_23dataset.pth (project Tencent/MedicalNet, also with 18, 34 or 50) "
    "or RadImageNet's ResNet50.pt (project BMEII-AI/RadImageNet), brought to this machine by you: nothing is downloaded."
)


def load_features(path: Path) -> FeatureNet:
    """A frozen feature network.

    Args:
        path: a run folder of `train-features`; MedicalNet's `resnet_*.pth` (Chen et al. 2019); RadImageNet's `ResNet50.pt`
            (Mei et al. 2022); or a residual network with torchvision's names. Kind and depth are read from names and shapes;
            weights for 1000 classes are taken as ImageNet's.

    Raises:
        UserError: nothing is there, or it is none of these; the message says what is wanted.
    """
    path = Path(path)
    if path.is_dir():
        net = load_model(path)
        if not isinstance(net, FeatureNet):
            raise UserError(f"{path} holds a {type(net).__name__}, not a feature network.", WANTED)
    else:
        net = _from_file(path)
    net.sha256 = features_digest(path)
    return net.requires_grad_(False).eval()


def features_digest(path: Path) -> str:
    """SHA-256 of the weights behind a path that `load_features` takes.

    Raises:
        UserError: there are none.
    """
    path = Path(path)
    weights = path / "model.safetensors" if path.is_dir() else path
    if not weights.is_file():
        raise UserError(f"{path} holds no weights." if path.is_dir() else f"{path} does not exist.", WANTED)
    return sha256(weights)


def _from_file(path: Path) -> FeatureNet:
    if not path.is_file():
        raise UserError(f"{path} does not exist.", WANTED)
    if path.name == "model.safetensors" and (path.parent / "model.yaml").is_file():
        raise UserError(f"{path} belongs to a run.", f"Give its folder: {path.parent}")
    weights = max(read_weights(path).values(), key=len)
    try:
        return ResNetFeatures({key: value for key, value in weights.items() if isinstance(value, Tensor)})
    except UserError as error:
        raise UserError(f"{path}: {error}", WANTED) from error
