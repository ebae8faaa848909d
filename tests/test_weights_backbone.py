"""The type and the network that it builds."""
import dataclasses

import pytest
import torch

from transfer.weights.backbone import build
from transfer.weights.readers import read


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
