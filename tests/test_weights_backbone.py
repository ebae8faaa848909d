"""The type, its network and the table of names."""
import dataclasses

import pytest
import torch

from transfer.weights.backbone import build, expected, resnet50
from transfer.weights.readers import read


def test_the_table_has_318_names_of_known_shapes():
    table = expected()
    assert len(table) == 318
    assert sum(name.endswith("num_batches_tracked") for name in table) == 53
    assert table["conv1.weight"] == (64, 3, 7, 7)
    assert table["layer1.0.conv1.weight"] == (64, 64, 1, 1)
    assert table["layer3.5.bn2.running_var"] == (256,)
    assert table["layer4.0.downsample.0.weight"] == (2048, 1024, 1, 1)
    assert not any(name.startswith("fc.") for name in table)


def test_forward_gives_pooled_features():
    with torch.no_grad():
        assert resnet50().eval()(torch.zeros(2, 3, 64, 96)).shape == (2, 2048)


def test_build_copies_the_weights_in_eval_mode_and_draws_no_random_number():
    backbone = read("random")
    generator = torch.get_rng_state()
    network = build(backbone)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not network.training
    held = network.state_dict()
    assert all(torch.equal(held[name], tensor) for name, tensor in backbone.state.items())
    with torch.no_grad():
        network.conv1.weight.zero_()
    assert backbone.state["conv1.weight"].any(), "training the network must not change the backbone"


@pytest.mark.parametrize("change", [lambda state: state.pop("layer4.2.bn3.bias"),
                                    lambda state: state.update({"fc.bias": torch.zeros(1000)})],
                         ids=["missing", "more"])
def test_build_is_strict(change):
    backbone = read("random")
    state = dict(backbone.state)
    change(state)
    with pytest.raises(RuntimeError, match="(Missing|Unexpected) key"):
        build(dataclasses.replace(backbone, state=state))
