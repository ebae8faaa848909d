"""Detection on other numbers of processes and in micro-batches: which gradients are equal, and to what."""

import detection_toys as toys
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from pretrain import distributed
from transfer import run as command
from transfer.detection import d2, trainer
from transfer.detection.accumulation import AccumulatingTrainer
from transfer.detection.protocol import Config

# Every anchor and every region counts, so that nothing is drawn by chance, and each image has three regions.
ALL = Config("pascal_voc_R_50_C4_24k_bt.yaml").override([
    *toys.SMALL, "INPUT.MIN_SIZE_TRAIN", "32", "INPUT.MAX_SIZE_TRAIN", "48",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN", "3", "MODEL.RPN.NMS_THRESH", "1.0",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "0", "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "32"])
FROZEN = ("MODEL.RESNETS.NORM", "FrozenBN", "SOLVER.IMS_PER_BATCH", "4")
TRAINED = ("MODEL.RESNETS.NORM", "SyncBN")
TWO = ("SOLVER.ACCUMULATE", "2")


class Exact(trainer.Trainer):
    """In float64, where an order of additions does not move a ReLU; only NMS takes float32."""

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg).double()
        model.proposal_generator.rpn_head.register_forward_hook(
            lambda module, features, output: tuple([level.float() for level in kind] for kind in output))
        return model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """VOC trees with images of one size: a batch of several sizes is padded, which a batch of one is not."""
    return toys.write_voc(tmp_path_factory.mktemp("data"), sizes=((96, 64),))


def gradients(context, settings):
    """Return [{parameter: gradient}] of the first iteration from a seeded initialisation, one a setting."""
    d2.join_processes()
    found = []
    for pairs in settings:
        cfg = trainer.prepare(ALL.override(pairs), context)
        seed_all_rng(0)
        with d2.log_to(context.out), EventStorage(0):
            built = Exact(cfg)
            built.run_step()
        model = built.checkpointer.model
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    return found


def sampled(found):
    """Return {parameter: about a thousand values of its gradient}: all of them would be slow to send."""
    return {name: values.flatten()[::max(1, values.numel() // 1000)] for name, values in found.items()}


def sampled_gradients(context, settings):
    return [sampled(found) for found in gradients(context, settings)]


def distance(found, wanted):
    """Return the largest distance of a tensor from the one wanted, relative to its length."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


@pytest.fixture(scope="module")
def joint(root, tmp_path_factory):
    """Gradients of one process: four images with frozen batch norm, two with a trained one."""
    return gradients(toys.context(root, tmp_path_factory.mktemp("joint")), [FROZEN, TRAINED])


def test_two_processes_have_the_gradient_of_the_joint_batch(root, joint, tmp_path):
    settings = [FROZEN, TRAINED, (*FROZEN, *TWO)]
    found = distributed.launch(sampled_gradients, 2, toys.context(root, tmp_path, gpus=2), settings)
    wanted = map(sampled, (*joint, joint[0]))
    assert [distance(*pair) < 1e-6 for pair in zip(found, wanted)] == [True, True, True]


def test_micro_batches_have_the_joint_gradient_but_for_trained_batch_norm(root, joint, tmp_path):
    frozen, trained = gradients(toys.context(root, tmp_path), [(*FROZEN, *TWO), (*TRAINED, *TWO)])
    assert distance(frozen, joint[0]) < 1e-6
    assert distance(trained, joint[1]) > 0.1  # its statistics are those of one image


def test_channels_last_changes_the_layout_and_rounding_only(root, joint, tmp_path):
    (found,) = gradients(toys.context(root, tmp_path), [(*TRAINED, "MODEL.CHANNELS_LAST", "True")])
    weight = found["backbone.res3.0.conv2.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert distance(found, joint[1]) < 1e-6


def test_rescale_reaches_the_config_of_a_run(capsys):
    words = ["--task", "voc_det", "--show-config", "--rescale", "--num-gpus", "2"]
    assert command.main([*words, "SOLVER.BASE_LR", "0.08"]) == 0
    told = capsys.readouterr().out
    assert "SOLVER.IMS_PER_BATCH = 4   (default: 16)" in told
    assert "SOLVER.BASE_LR = 0.02   (default: 0.1)" in told


class Toy(nn.Module):
    """Two losses of a linear map, and whether each was computed in mixed precision."""

    def __init__(self):
        super().__init__()
        self.layer, self.mixed = nn.Linear(3, 2), []

    def forward(self, images):
        output = self.layer(torch.stack(images))
        self.mixed.append(output.dtype)
        return {"loss_a": output.float().square().mean(), "loss_b": output.float().mean()}


@pytest.mark.parametrize("amp", [False, True])
def test_an_iteration_steps_once_on_the_mean_of_its_micro_batches(amp):
    torch.manual_seed(0)
    images = torch.randn(6, 3)
    batches = [list(images[:2]), list(images[2:4]), list(images[4:])]
    toy, start = Toy(), Toy()
    start.load_state_dict(toy.state_dict())
    one = AccumulatingTrainer(toy, iter(batches), torch.optim.SGD(toy.parameters(), 0.1), parts=3, amp=amp)
    with EventStorage(0) as storage:
        one.run_step()
    losses = start(list(images))  # micro-batches of one size: the mean of their means
    sum(losses.values()).backward()
    assert toy.mixed == [torch.bfloat16 if amp else torch.float32] * 3  # on a CPU; float16 on a GPU
    tolerance = 2e-2 if amp else 1e-6
    assert storage.latest()["loss_a"][0] == pytest.approx(losses["loss_a"].item(), rel=tolerance)
    for moved, before in zip(toy.parameters(), start.parameters()):
        assert torch.allclose(moved, before - 0.1 * before.grad, atol=tolerance)
    other = AccumulatingTrainer(Toy(), iter(batches), torch.optim.SGD(toy.parameters(), 0.1), 3, amp)
    other.load_state_dict(one.state_dict())
    assert other.grad_scaler.state_dict() == one.grad_scaler.state_dict()
