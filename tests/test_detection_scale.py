"""Detection on other numbers of processes and in micro-batches: which gradients are equal, and to what."""

import os
import subprocess
import sys
from pathlib import Path

import detection_toys as toys
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from parallel.collectives import all_gather_rows, rank
from parallel.launch import launch
from transfer import run as command
from transfer.detection import d2, hooks, norms, trainer
from transfer.detection.accumulation import AccumulatingTrainer
from transfer.detection.protocol import Config
from transfer.weights.readers import read

ROOT = Path(__file__).resolve().parent.parent

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
RUN = Config("pascal_voc_R_50_C4_24k_bt.yaml").override(
    [*toys.SMALL, "SOLVER.MAX_ITER", "1", "TEST.PRECISE_BN.NUM_ITER", "3"])  # of several image sizes


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
    return {name: values.flatten()[::max(1, values.numel() // 1000)].clone()  # a view would send them all
            for name, values in found.items()}


def a_run(backbone, context):
    """One iteration from beginning to end: metrics, and on each rank what makes the ranks one model."""
    seen = {}
    before_step = hooks.SeedEachIteration.before_step

    def look(hook):
        model, optimizer = hook.trainer.checkpointer.model, hook.trainer.optimizer
        found = [module for module in model.modules() if isinstance(module, norms.CPUSyncBatchNorm2d)]
        decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups
                 for parameter in group["params"]}
        seen.update(norms=len(found), decay={decay[id(module.weight)] for module in found}, model=model)
        before_step(hook)

    hooks.SeedEachIteration.before_step = look
    metrics = trainer.run(backbone, RUN, context)
    state = torch.cat([value.double().flatten() for value in seen["model"].state_dict().values()])
    sums = all_gather_rows(torch.stack([state.sum(), state.abs().sum()])[None])
    assert metrics if rank() == 0 else metrics == {}
    return metrics, seen["norms"], seen["decay"], sums


def two_processes(gradient_context, settings, backbone, run_context):
    """Both of the above, because to start processes takes long."""
    return [sampled(found) for found in gradients(gradient_context, settings)], a_run(backbone, run_context)


def distance(found, wanted):
    """Return the largest distance of a tensor from the one wanted, relative to its length."""
    assert found.keys() == wanted.keys()
    return max(float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted)


@pytest.fixture(scope="module")
def joint(root, tmp_path_factory):
    """Gradients of one process: four images with frozen batch norm, two with a trained one."""
    return gradients(toys.context(root, tmp_path_factory.mktemp("joint")), [FROZEN, TRAINED])


@pytest.fixture(scope="module")
def two(root, tmp_path_factory):
    """What two processes return: gradients, and the parts of a run on images of several sizes."""
    contexts = [toys.context(data, tmp_path_factory.mktemp("two"), gpus=2)
                for data in (root, toys.write_voc(tmp_path_factory.mktemp("sizes")))]
    return launch(two_processes, 2, contexts[0], [(*FROZEN, *TWO), TRAINED], read("random"),
                              contexts[1])


def test_two_processes_have_the_gradient_of_the_joint_batch(joint, two):
    assert [distance(*pair) < 1e-6 for pair in zip(two[0], map(sampled, joint))] == [True, True]


def test_two_processes_train_one_model(two):
    metrics, found, decay, sums = two[1]
    assert set(metrics) == {"AP50", "AP", "AP75"}
    assert found == 54 and decay == {0.0}  # 53 of the backbone and the extra norm
    assert torch.equal(sums[0], sums[1])  # weights and precise-BN statistics are the same on both


TWO_RUNS = """
import sys
import torch.distributed as dist
from detectron2.utils import comm
from parallel.collectives import rank
from parallel.groups import joined
from parallel.launch import launch
from transfer.detection import d2

start = dist.init_process_group
dist.init_process_group = lambda backend, **rest: start("cpu:gloo,cuda:gloo", **rest)

def run():
    d2.join_processes()
    return comm.all_gather(dist.get_rank()), comm.get_local_rank(), comm.get_local_size()

for group in range(2):
    with joined():
        for seed in range(2):
            sys.stdout.write(f"rank {rank()} {launch(run, 2)}\\n")  # whole lines
"""


def test_detectron2_gathers_in_each_run_under_torchrun_with_the_groups_of_gpus():
    """The group of a machine with GPUs has a backend for each device and neither's name."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, "--no-python", sys.executable, "-c", TWO_RUNS], cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          timeout=120)
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        *4 * ["rank 0 ([0, 1], 0, 2)"], *4 * ["rank 1 ([0, 1], 1, 2)"]], done.stderr


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
