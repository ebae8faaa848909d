"""Two gloo ranks and one process give the same heads and the same numbers, on sets of odd size."""
import dataclasses
import json
import multiprocessing
import time

import classification_toys as toys
import pytest
import torch
from torch import nn
from torch.nn import functional

from parallel.collectives import all_gather_rows, rank
from parallel.launch import launch
from transfer.classification import data, finetune, knn, linear, lists
from transfer.classification import lowshot, probe, svm, svm_solver, training

LINEAR = linear.Config(dataset="odd", epochs=2, batch_size=4, image_size=32, precision="float64")
FINETUNE = finetune.Config(dataset="odd", split="", epochs=1, batch_size=8, image_size=64,
                           precision="float64", backbone_learning_rate=1e-3, head_learning_rate=0.1)
RUNS = {
    "linear": (linear, LINEAR),  # 13 images in batches of 4: the last one leaves a rank without any
    "knn": (knn, knn.Config(dataset="odd", k=(1, 3), image_size=32, precision="float64")),
    "svm": (svm, svm.Config(costs=(0.1, 10.0), image_size=32)),
    "lowshot": (lowshot, lowshot.Config(shots=(1, 3), draws=2, costs=(0.1, 10.0), image_size=32)),
    "probe": (probe, probe.Config(strengths=3, weakest=1e-3, strongest=10.0, image_size=32,
                                  precision="float64")),
    "sweep": (linear, dataclasses.replace(LINEAR, dataset="even", batch_norm=True, batch_size=6,
                                          sweep_learning_rates=(0.1, 1.0), held_out=0.4)),
    "joint batch norm": (finetune, dataclasses.replace(FINETUNE, dataset="even", split="draw:100%",
                                                       image_size=32, batch_size=14, sync_batch_norm=True)),
}


def run_all(root, out, gpus, names):
    found = {}
    for name in names:
        protocol, config = {**RUNS, "finetune": (finetune, FINETUNE)}[name]
        if name == "finetune":
            config = dataclasses.replace(config, split=str(root / "list.txt"))
        context = toys.context(root, out / name, gpus=gpus, workers=2 if name == "svm" else 0)
        found[name] = protocol.run(toys.backbone(), config, context)
    return found


def buffers_after_validation():
    """(ranks, 3) running means after validating a toy network whose ranks started from 0 and 1."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))
    network[2].running_mean.fill_(rank())
    batch = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([0, 1])
    finetune.validate(network, nn.Linear(3, 3), [batch], torch.device("cpu"))
    return all_gather_rows(network[2].running_mean[None])


def run_two(root, out):
    """Of rank 0: metrics, buffers, its living children and when it was done."""
    svm_solver.SERIAL_WORK = 0  # fits in processes
    found = run_all(root, out, 2, [*RUNS, "finetune"]), buffers_after_validation()
    return *found, len(multiprocessing.active_children()), time.time()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(data root, folder with the runs, metrics of one process, (metrics of two, buffers), (children that
    rank 0 had at its end, seconds it took to end))."""
    root, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    toys.image_tree(root / "even")
    toys.image_tree(root / "odd")
    for split in ("train", "val"):
        (root / "odd" / split / "apple" / "apple_0.JPEG").unlink()
    (root / "list.txt").write_text("\n".join(path.name for path in (root / "odd" / "train").glob("*/*")))
    (root / "cifar10").symlink_to(root / "odd")
    toys.voc_tree(root / "VOC2007", trainval=19, test=11)
    one = run_all(root, out / "one", 1, list(RUNS))
    *two, children, done = launch(run_two, 2, root, out / "two")
    return root, out, one, two, (children, time.time() - done)


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_are_equal(both, name):
    _, _, one, (two, _), _ = both
    assert one[name] == pytest.approx(two[name], abs=1e-4 if name in ("svm", "lowshot") else 1e-9)


def test_ranks_end_with_the_processes_of_their_fits(both):
    """A rank waits for its children, and joblib would keep them for 300 s."""
    children, seconds = both[4]
    assert children == 0 and seconds < 60


@pytest.mark.parametrize("name", ["linear", "sweep", "joint batch norm"])
def test_the_files_to_keep_are_equal(both, name):
    folders = [both[1] / ranks / name / "record" for ranks in ("one", "two")]
    one, two = ({file.name: json.loads(file.read_text()) for file in folder.iterdir()} for folder in folders)
    assert {"curve.json", "per_class.json", "confusion.json"} <= one.keys() == two.keys()
    assert one["per_class.json"] == two["per_class.json"] and one["confusion.json"] == two["confusion.json"]
    for row, other in zip(one["curve.json"], two["curve.json"], strict=True):
        assert row == pytest.approx(other, rel=1e-9)


def test_joint_batch_norms_make_ranks_one_process(both):
    _, out, *_ = both
    one, two = (torch.load(out / ranks / "joint batch norm" / "checkpoint.pth", weights_only=True)
                for ranks in ("one", "two"))
    for part in ("network", "head"):
        for key, tensor in one[part].items():
            assert torch.allclose(tensor.double(), two[part][key].double(), rtol=0, atol=1e-9), key


@pytest.mark.parametrize("name", ["linear", "sweep"])
def test_the_heads_are_equal(both, name):
    _, out, *_ = both
    one, two = (torch.load(out / ranks / name / "checkpoint.pth", weights_only=True)
                for ranks in ("one", "two"))
    assert one["heads"].keys() == two["heads"].keys()
    for key, tensor in one["heads"].items():
        assert torch.allclose(tensor, two["heads"][key], rtol=0, atol=1e-8), key
    rows = [torch.tensor([[*row.values()] for row in saved["history"]]) for saved in (one, two)]
    assert torch.allclose(*rows, rtol=1e-9)


def test_fine_tuning_on_two_ranks_equals_two_half_batches(both):
    """Batch norm sees each rank's half alone, gradients are averaged, rank 0's statistics are kept; the
    last batch of 5 images is filled up to 6."""
    root, out, _, (two, _), _ = both
    saved = torch.load(out / "two" / "finetune" / "checkpoint.pth", weights_only=True)
    network, head = toys.plain_network(), training.linear_head(3, 2048, 0.01, 0).double()
    optimizer = torch.optim.SGD([{"params": network.parameters(), "lr": 1e-3}, {"params": head.parameters()}],
                                lr=0.1, momentum=0.9)
    train, _ = lists.labelled_pair((root / "list.txt").read_bytes(), "", root / "odd")
    images = data.Images(train, 64, augment=True, seed=0)
    keys = sum(data.TrainBatches(13, 8, seed=0), [])
    for batch in (keys[:8], keys[8:] + keys[:1]):
        pixels, labels, _ = data._collate([images[key] for key in batch], images)
        pixels = data.normalised(pixels, torch.device("cpu"), torch.float64)
        optimizer.zero_grad()
        for half in (1, 0):
            own = slice(0, len(batch) // 2) if half == 0 else slice(len(batch) // 2, None)
            before = [buffer.clone() for buffer in network.buffers()]
            (functional.cross_entropy(head(network.train()(pixels[own])), labels[own]) / 2).backward()
            if half == 1:
                for buffer, value in zip(network.buffers(), before):
                    buffer.copy_(value)
        optimizer.step()
    for name, expected in network.state_dict().items():
        assert torch.allclose(saved["network"][name].double(), expected.double(), rtol=0, atol=1e-9), name
    assert two["finetune"]["top1"] in [100 * hits / 7 for hits in range(8)]  # 7 images, none counted twice


def test_validation_uses_the_statistics_of_rank_zero(both):
    assert both[3][1].tolist() == [[0, 0, 0]] * 2


def test_batch_size_that_does_not_divide(monkeypatch, both, tmp_path):
    monkeypatch.setattr(data, "world_size", lambda: 2)
    config = dataclasses.replace(LINEAR, batch_size=5)
    with pytest.raises(ValueError, match="batch_size 5 is over all 2 processes and must divide by them"):
        linear.run(toys.backbone(), config, toys.context(both[0], tmp_path, gpus=2))


def test_toy_network_needs_its_batch_norm():
    """The toy's statistics matter, so equal numbers above are no accident of a network that ignores them."""
    network = toys.plain_network()
    assert all(module.running_mean.abs().max() > 0.05 for module in network.modules()
               if isinstance(module, nn.BatchNorm2d))
