"""Names and shapes of the network: an official checkpoint fits, and ours fits the official code."""
import pytest
import torch

from pretrain.backbones import build_backbone, build_projector
from pretrain.methods import build, recipe
from pretrain.upkeep.checkpoint import load_model


def official_names(width, sizes):
    """Name -> shape of what facebookresearch/barlowtwins adds to torchvision's backbone."""
    names, sizes = {}, [width, *sizes]
    for layer in range(len(sizes) - 1):
        names[f"projector.{3 * layer}.weight"] = (sizes[layer + 1], sizes[layer])
        if layer < len(sizes) - 2:
            for name in ("weight", "bias", "running_mean", "running_var"):
                names[f"projector.{3 * layer + 1}.{name}"] = (sizes[layer + 1],)
            names[f"projector.{3 * layer + 1}.num_batches_tracked"] = ()
    return names | {"bn.running_mean": sizes[-1:], "bn.running_var": sizes[-1:], "bn.num_batches_tracked": ()}


def small():
    return build(recipe(arch="resnet18", projector="8-6"))


def test_names_are_the_official_ones():
    with torch.device("meta"):
        state = build(recipe()).state_dict()
    backbone = {name: value for name, value in state.items() if name.startswith("backbone.")}
    assert len(backbone) == 318 and not any(".fc." in name for name in backbone)
    assert backbone["backbone.layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
    rest = {name: tuple(value.shape) for name, value in state.items() if name not in backbone}
    assert rest == {name: tuple(shape) for name, shape in official_names(2048, [8192, 8192, 8192]).items()}


def test_an_official_state_loads_and_nothing_else_does():
    network, other = small(), small()
    state = {"module." + name: value for name, value in other.state_dict().items()}
    load_model(network, state)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values()))
    state.pop("module.bn.running_var")
    with pytest.raises(RuntimeError, match="bn.running_var"):
        load_model(network, state)


@pytest.mark.parametrize("stem, grid", [("imagenet", 1), ("cifar", 4)])
def test_features_and_last_blocks(stem, grid):
    torch.manual_seed(0)
    backbone, width = build_backbone("resnet18", stem)
    seen = []
    backbone.layer4.register_forward_hook(lambda layer, inputs, output: seen.append(output.shape[2:]))
    assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, 512) and width == 512
    assert tuple(seen[0]) == (grid, grid)
    assert backbone.layer4[1].bn2.weight.abs().sum() == 0  # zero_init_residual


def test_projector_has_no_biases_and_ends_linearly():
    layers = build_projector(5, "7-6-4")
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert all(layer.bias is None for layer in layers if isinstance(layer, torch.nn.Linear))
    assert [type(layer).__name__ for layer in build_projector(5, "7")] == ["Linear"]


def test_views_pass_one_after_the_other():
    """Batch statistics are those of one view: the second view's output ignores the first."""
    torch.manual_seed(0)
    network = small().train()
    y1, y2, other = torch.randn(3, 4, 3, 32, 32)
    z1, z2 = network(y1, y2)
    assert z1.shape == z2.shape == (4, 6)
    assert torch.equal(network(other, y2)[1], z2)


def test_unknown_architectures_are_refused():
    with pytest.raises(ValueError, match="--arch expected one of resnet18, .*found 'vgg16'"):
        build_backbone("vgg16", "imagenet")
