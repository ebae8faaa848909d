"""One, two and four processes give the figures that docs/cluster.md promises, on sets of odd size."""
import json
import re
import time
from pathlib import Path

import classification_toys as toys
import exact_toys
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from parallel.launch import launch
from transfer.classification import finetune, layouts, linear, training
from transfer.classification import images as data
from transfer.tasks import TASKS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "cluster.md").read_text()
SECTION = PAGE.split("## The same numbers on any number of processes\n")[1].split("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines()
        if line.startswith("|")][2:]
PROMISED = {name.split(" (")[0]: {2: two, 4: four} for name, two, four, _ in ROWS}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(data root, folder with the runs, {processes: (figures, buffers, children that rank 0 had at its end,
    seconds it took to end)})."""
    root, out = exact_toys.write_data(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("out")
    found = {}
    for processes in (1, 2, 4):
        *rest, done = launch(exact_toys.run_all, processes, root, out / str(processes))
        found[processes] = *rest, time.time() - done
    return root, out, found


def distance(found, wanted):
    """The largest distance of a figure from the one wanted, relative to that."""
    assert found.keys() == wanted.keys()
    return max(np.linalg.norm(found[name] - wanted[name]) / max(np.linalg.norm(wanted[name]), 1e-12)
               for name in wanted)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", PROMISED)
def test_the_page_says_how_far_the_figures_are_apart(runs, name, processes):
    promise = PROMISED[name][processes]
    bound = float(re.search(r"[0-9.e-]+$", promise)[0])
    apart = distance(runs[2][processes][0][name], runs[2][1][0][name])
    assert apart <= bound
    assert ("differ" in promise) == (apart > 1e-3)


def test_the_page_has_every_task_and_every_row_is_measured(runs):
    names = {"..._probe" if name.endswith("_probe") else name for name in TASKS}
    assert names <= set(re.findall(r"`([^` ]+)`", " ".join(name for name, *_ in ROWS)))
    assert PROMISED.keys() == runs[2][1][0].keys()


def test_ranks_end_with_the_processes_of_their_fits(runs):
    """A rank waits for its children, and joblib would keep them for 300 s."""
    *_, children, seconds = runs[2][2]
    assert children == 0 and seconds < 60


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", ["linear", "linear with batch norm", "linear by Adam",
                                  "fine-tuning, joint batch norm"])
def test_the_files_to_keep_are_equal(runs, name, processes):
    folders = [runs[1] / str(ranks) / name / "record" for ranks in (1, processes)]
    one, many = ({file.name: json.loads(file.read_text()) for file in folder.iterdir()} for folder in folders)
    assert {"curve.json", "per_class.json", "confusion.json"} <= one.keys() == many.keys()
    assert one["per_class.json"] == many["per_class.json"] and one["confusion.json"] == many["confusion.json"]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name, parts", [("linear", ["heads"]), ("linear with batch norm", ["heads"]),
                                         ("linear by Adam", ["heads"]),
                                         ("fine-tuning, joint batch norm", ["network", "head"])])
def test_the_weights_are_equal(runs, name, parts, processes):
    one, many = (torch.load(runs[1] / str(ranks) / name / "checkpoint.pth", weights_only=True)
                 for ranks in (1, processes))
    for part in parts:
        assert one[part].keys() == many[part].keys()
        for key, tensor in one[part].items():
            assert torch.allclose(tensor.double(), many[part][key].double(), rtol=0, atol=1e-8), key


def test_fine_tuning_on_two_ranks_equals_two_half_batches(runs):
    """Batch norm sees each rank's half alone, gradients are averaged, rank 0's statistics are kept; the
    last batch of 5 images is filled up to 6."""
    root, out, found = runs
    saved = torch.load(out / "2" / "fine-tuning" / "checkpoint.pth", weights_only=True)
    network, head = toys.plain_network(), training.linear_head(3, 2048, 0.01, 0).double()
    optimizer = torch.optim.SGD([{"params": network.parameters(), "lr": 1e-3}, {"params": head.parameters()}],
                                lr=0.1, momentum=0.9)
    train, _ = layouts.split_pair(root / "odd")
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
    top1 = found[2][0]["fine-tuning"]["top1"].item()
    assert top1 in [100 * hits / 7 for hits in range(8)]  # 7 images, none counted twice


def test_validation_uses_the_statistics_of_rank_zero(runs):
    assert runs[2][2][1] == [[0, 0, 0]] * 2


@pytest.mark.parametrize("protocol, config", [(linear, linear.Config(batch_size=256)),
                                              (finetune, finetune.Config(batch_size=256))], ids=str)
def test_batch_size_that_does_not_divide_is_refused_with_the_data(tmp_path, protocol, config):
    with pytest.raises(ValueError, match="256 is over all 3 processes.*255"):
        protocol.data(config, toys.context(tmp_path, tmp_path, gpus=3))


def test_toy_network_needs_its_batch_norm():
    """The toy's statistics matter, so equal numbers above are no accident of a network that ignores them."""
    network = toys.plain_network()
    assert all(module.running_mean.abs().max() > 0.05 for module in network.modules()
               if isinstance(module, nn.BatchNorm2d))
