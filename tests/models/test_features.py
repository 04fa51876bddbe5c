"""Feature networks from files of others, against networks computed line by line from the same weights."""

import hashlib

import pytest
import torch
import torch.nn.functional as F

from medldm.errors import UserError
from medldm.models.features import features_digest, load_features
from medldm.models.resnet_features import DEPTHS

KINDS = {10: "A", 18: "A", 34: "A", 50: "B"}


def weights_of(depth, shortcut, dimensions, width=8, bias=False, seed=0):
    """Random weights by torchvision's names, as the papers say: He et al. 2016, table 1."""
    generator = torch.Generator().manual_seed(seed)
    kind, blocks = next(key for key, value in DEPTHS.items() if value == depth)
    state = {}

    def conv(name, outside, inside, size, bias=False):
        shape = (outside, inside, *[size] * dimensions)
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / (inside * size**dimensions)) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(outside, generator=generator) * 0.1

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            values = torch.randn(channels, generator=generator) * 0.2
            state[f"{name}.{part}"] = values + 1 if part in ("weight", "running_var") else values
        state[f"{name}.running_var"].abs_().add_(0.1)
        state[f"{name}.num_batches_tracked"] = torch.tensor(3)

    conv("conv1", width, 1 if dimensions == 3 else 3, 7)
    norm("bn1", width)
    inside, expansion = width, 4 if kind == "bottleneck" else 1
    for stage, count in enumerate(blocks):
        planes = width * 2**stage
        for n in range(count):
            name = f"layer{stage + 1}.{n}"
            sizes = (
                [(planes, inside, 1), (planes, planes, 3), (4 * planes, planes, 1)] if expansion == 4 else [(planes, inside, 3), (planes, planes, 3)]
            )
            for i, (outside, given, size) in enumerate(sizes, start=1):
                conv(f"{name}.conv{i}", outside, given, size)
                norm(f"{name}.bn{i}", outside)
            if n == 0 and shortcut == "B" and (stage > 0 or inside != planes * expansion):
                conv(f"{name}.downsample.0", planes * expansion, inside, 1, bias)
                norm(f"{name}.downsample.1", planes * expansion)
            inside = planes * expansion
    return state


def by_hand(state, x, dilated):
    """Maps of the stem and the stages, straight from the weights; MedicalNet's code: strides 1, 2, 1, 1 and dilations 1, 1, 2, 4."""
    conv, pool = (F.conv3d, F.max_pool3d) if x.ndim == 5 else (F.conv2d, F.max_pool2d)

    def norm(name, h):
        return F.batch_norm(h, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")), eps=1e-5)

    found = [F.relu(norm("bn1", conv(x, state["conv1.weight"], stride=2, padding=3)))]
    for stage in range(4):
        h = pool(found[0], 3, 2, 1) if stage == 0 else found[-1]
        stride, dilation = ((1, 2, 1, 1)[stage], (1, 1, 2, 4)[stage]) if dilated else ((1, 2, 2, 2)[stage], 1)
        n = 0
        while f"layer{stage + 1}.{n}.conv1.weight" in state:
            name, skip, step = f"layer{stage + 1}.{n}", h, stride if n == 0 else 1
            if f"{name}.conv3.weight" in state:
                y = F.relu(norm(f"{name}.bn1", conv(h, state[f"{name}.conv1.weight"])))
                y = F.relu(norm(f"{name}.bn2", conv(y, state[f"{name}.conv2.weight"], stride=step, padding=dilation, dilation=dilation)))
                y = norm(f"{name}.bn3", conv(y, state[f"{name}.conv3.weight"]))
            else:
                y = F.relu(norm(f"{name}.bn1", conv(h, state[f"{name}.conv1.weight"], stride=step, padding=dilation, dilation=dilation)))
                y = norm(f"{name}.bn2", conv(y, state[f"{name}.conv2.weight"], padding=dilation, dilation=dilation))
            if f"{name}.downsample.0.weight" in state:
                skip = conv(h, state[f"{name}.downsample.0.weight"], state.get(f"{name}.downsample.0.bias"), stride=step)
                skip = norm(f"{name}.downsample.1", skip)
            elif skip.shape != y.shape:
                skip = h[(..., *[slice(None, None, step)] * (h.ndim - 2))]
                skip = torch.cat([skip, skip.new_zeros(len(h), y.shape[1] - h.shape[1], *skip.shape[2:])], 1)
            h, n = F.relu(y + skip), n + 1
        found.append(h)
    return found


def saved(path, state, prefix="", nested=False):
    names = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    if prefix == "backbone.":
        state = {f"{names[(p := k.partition('.'))[0]]}.{p[2]}": v for k, v in state.items()}
    state = {prefix + key: value for key, value in state.items()}
    torch.save({"state_dict": state, "epoch": 3} if nested else state, path)
    return path


@pytest.fixture(scope="module")
def volume():
    return torch.randn(2, 1, 33, 28, 24, generator=torch.Generator().manual_seed(1)) * 0.4


@pytest.mark.parametrize(("depth", "shortcut", "bias"), [(10, "B", False), (18, "A", False), (34, "A", False), (50, "B", False), (18, "B", True)])
def test_medicalnet_computes_what_its_paper_says(depth, shortcut, bias, volume, tmp_path):
    state = weights_of(depth, shortcut, 3, bias=bias)
    head = {"conv_seg.0.weight": torch.zeros(3), "conv_seg.1.bias": torch.zeros(1)}
    net = load_features(saved(tmp_path / "w.pth", state | head, "module.", nested=True))
    assert (net.name, net.dimensions) == (f"medicalnet_resnet{depth}", 3)
    axes = (1, 2, 3, 4)
    z = ((volume - volume.mean(axes, keepdim=True)) / volume.std(axes, keepdim=True)).requires_grad_()
    given = z.detach().clone().requires_grad_()
    wanted, found = by_hand(state, z, dilated=True), net.maps(given)
    assert [tuple(f.shape) for f in found] == [tuple(w.shape) for w in wanted] and len(found) == 5
    for f, w in zip(found, wanted, strict=True):
        assert torch.allclose(f, w, rtol=1e-3, atol=1e-4 * float(w.detach().abs().max()))
    wanted[-1].square().sum().backward()
    net.levels(given)[-1].square().sum().backward()
    assert torch.allclose(given.grad, z.grad, rtol=1e-3, atol=1e-3 * float(z.grad.abs().max()))  # also through shortcuts without parameters
    with torch.no_grad():
        assert torch.allclose(net.vector(volume), wanted[-1].flatten(2).mean(2), rtol=1e-3, atol=1e-4 * float(wanted[-1].max()))


@pytest.mark.parametrize(("prefix", "classes", "name"), [("backbone.", 0, "radimagenet"), ("", 165, "radimagenet"), ("", 1000, "imagenet")])
def test_networks_of_slices_see_three_equal_channels_in_their_range(prefix, classes, name, tmp_path):
    state = weights_of(50, "B", 2)
    head = {"fc.weight": torch.zeros(classes, 256), "fc.bias": torch.zeros(classes)} if classes else {}
    net = load_features(saved(tmp_path / "ResNet50.pt", state | head, prefix))
    assert (net.name, net.dimensions) == (f"{name}_resnet50", 2)
    x = torch.rand(2, 1, 40, 33, generator=torch.Generator().manual_seed(2)) * 2 - 1
    three = x.repeat(1, 3, 1, 1)
    if name == "imagenet":
        three = ((three + 1) / 2 - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    for f, w in zip(net.maps(x), by_hand(state, three, dilated=False), strict=True):
        assert torch.allclose(f, w, rtol=1e-3, atol=1e-4 * float(w.detach().abs().max()))


def test_the_vector_of_a_network_of_slices_is_the_mean_over_the_three_orientations(tmp_path):
    net = load_features(saved(tmp_path / "ResNet18.pt", weights_of(18, "B", 2)))
    x = torch.rand(2, 2, 20, 24, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1

    def of(volume):
        means = []
        for axis in (0, 1, 2):
            rows = [net.maps(s[None, None])[-1].mean((2, 3))[0] for s in volume.unbind(axis)]
            means.append(torch.stack(rows).mean(0))
        return torch.stack(means).mean(0)

    wanted = torch.stack([torch.stack([of(channel) for channel in case]).mean(0) for case in x])
    assert torch.allclose(net.vector(x), wanted, rtol=1e-4, atol=1e-4)


def test_contrasts_are_seen_one_by_one_and_cases_for_themselves(volume, tmp_path):
    net = load_features(saved(tmp_path / "w.pth", weights_of(10, "B", 3)))
    two = torch.cat([volume, volume.flip(2) * 2 + 1], 1)
    each = [net.vector(two[:, n : n + 1]) for n in (0, 1)]
    assert torch.allclose(net.vector(two), (each[0] + each[1]) / 2, atol=1e-5)
    assert torch.allclose(net.vector(two)[1:], net.vector(two[1:]), atol=1e-5)


def test_the_weights_of_monais_medicalnet_network_fit_key_by_key(tmp_path):
    from monai.networks.nets import resnet10

    theirs = resnet10(spatial_dims=3, n_input_channels=1, feed_forward=False, shortcut_type="B", bias_downsample=False, conv1_t_stride=2)
    net = load_features(saved(tmp_path / "resnet_10_23dataset.pth", theirs.state_dict(), "module."))
    ours = net.net.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items()) and len(ours) == len(theirs.state_dict())


def test_a_network_is_frozen_and_names_its_file(tmp_path):
    path = saved(tmp_path / "w.pth", weights_of(10, "B", 3))
    net = load_features(path)
    assert net.sha256 == features_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any(p.requires_grad for p in net.parameters())
    net.train()
    assert not any(module.training for module in net.modules())


def test_a_constant_volume_has_finite_features(tmp_path):
    net = load_features(saved(tmp_path / "w.pth", weights_of(10, "B", 3)))
    assert torch.isfinite(net.vector(torch.full((1, 1, 16, 16, 16), -1.0))).all()


def broken():
    """What else a file may hold -> a word of the message."""
    state = weights_of(10, "B", 3)
    yield {}, "no tensors"
    yield {"features.0.weight": torch.zeros(8, 3, 3, 3)}, "no residual network"
    yield {**state, "conv1.weight": torch.zeros(8, 4, 7, 7, 7)}, "one channel in 3-D or three in 2-D"
    yield {**state, "conv1.weight": torch.zeros(300, 1, 7, 7, 7)}, "256 at most"
    yield {**state, "layer2.0.conv1.weight": torch.zeros(4, 4, 3, 3, 3)}, "do not fit"
    yield {**state, "conv1.bias": torch.zeros(8)}, "conv1.bias"
    yield {key: value for key, value in state.items() if key != "layer3.0.conv2.weight"}, "layer3.0.conv2.weight"


@pytest.mark.parametrize(("state", "word"), list(broken()), ids=[word for _, word in broken()])
def test_a_file_that_does_not_fit_is_refused(state, word, tmp_path):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=word):
        load_features(tmp_path / "w.pth")


def test_what_is_wanted_is_said_where_nothing_is(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.pt").write_text("not weights")
    for path in (tmp_path / "absent.pth", tmp_path / "folder"):
        with pytest.raises(UserError, match=r"no run|does not exist.*MedicalNet.*RadImageNet.*nothing is downloaded"):
            load_features(path)
    with pytest.raises(UserError, match="RadImageNet"):
        features_digest(tmp_path / "folder")
    for name in ("model.safetensors", "model.yaml"):
        (tmp_path / name).write_text("of a run")
    with pytest.raises(UserError, match=f"Give its folder: {tmp_path}"):
        load_features(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no file of weights"):
        load_features(tmp_path / "text.pt")
