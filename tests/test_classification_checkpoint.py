"""What a head's training or a fine-tuning continues from: this run's own file, whole, or one line."""
import dataclasses
import json

import pytest
import torch
from torch import nn

from parallel import checkpoints
from parallel.collectives import all_gather_rows, rank
from parallel.launch import launch
from transfer.classification.images import TrainBatches
from transfer.classification.linear import Config
from transfer.classification.training import Checkpoint
from transfer.settings import Context
from transfer.weights.backbone import Backbone

CONFIG = Config(epochs=2, batch_size=4)
ROW = {"loss": 0.5, "top1": 50.0, "top5": 100.0}


def made(out, seed=0, classes=3, value=0.0, config=CONFIG):
    """(checkpoint of a head of one step, the head)."""
    torch.manual_seed(1)
    head = nn.Linear(16, classes)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3, momentum=config.momentum)
    head(torch.ones(2, 16)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        head.weight.fill_(value)
    context = Context(out=out, data=out, gpus=1, workers=0, seed=seed, device="cpu", resume=True)
    backbone = Backbone("toy", "torchvision", {}, "0" * 64, "toy.pth")
    return Checkpoint(context, backbone, config, {"head": head}, optimizer, TrainBatches(16, 4, seed)), head


def changed(**changes):
    """A damage: entries of the file replaced, None: removed."""
    def change(path):
        state = torch.load(path, weights_only=True) | changes
        torch.save({name: value for name, value in state.items() if value is not None}, path)
    return change


def zeroed(path):
    content = bytearray(path.read_bytes())
    start = content.index(torch.full((3, 16), 7.0).numpy().tobytes())
    content[start:start + 64] = bytes(64)
    path.write_bytes(content)


@pytest.mark.parametrize("damage, message", [
    (zeroed, "is damaged: its part .* does not fit its checksum"),
    (lambda path: path.write_bytes(b""), "cannot be read as a checkpoint"),
    (lambda path: torch.save(nn.Linear(16, 3).state_dict(), path), "found one without head, history, id"),
    (lambda path: torch.save([3], path), "found one without any names"),
    (changed(optimizer=None), "found one without optimizer"),
    (changed(identity=None), "found one without identity"),
    (changed(identity=torch.zeros(2)), "expected the identity of a run, found tensor"),
    (changed(identity="{"), "checkpoint.pth: Expecting property name"),
    (changed(identity='["batch_size"]'), "expected the identity of a run, found "),
    (changed(head=nn.Linear(16, 2).state_dict()), "head.weight: expected float32 .3, 16., found"),
    (changed(head=nn.Linear(16, 3).double().state_dict()), "head.weight: expected float32 .*, found float64"),
    (changed(head={"weight": torch.zeros(3, 16)}), "head: expected bias, found none"),
    (changed(head=3), "head: expected dict, found int"),
    (changed(optimizer={"state": {}, "param_groups": []}), "optimizer.state: expected 0, found none"),
    (changed(history=[ROW] * 3), "history: expected 2 entries, found 3"),
    (changed(history=[{"loss": 0.5}]), "history.0: expected top1, found none"),
    (changed(history=7), "history: expected list, found int"),
    (changed(progress={"step": 5, "loss_sums": torch.zeros(1, 1).double()}), "step: expected 0 to 4"),
    (changed(progress={"step": 1, "loss_sums": torch.zeros(1, 2).double()}), "loss_sums: expected float64"),
    (changed(progress=[]), "progress: expected dict, found list"),
    (lambda path: made(path.parent, seed=5)[0].save([ROW]), "it is of seed 5, now 0"),
], ids=["zeroed", "empty", "foreign", "list", "no optimizer", "no identity", "identity tensor",
        "identity text", "identity list", "shape", "type", "a tensor less", "no head", "no momenta",
        "long history", "columns", "no history", "long epoch", "other losses", "no progress", "seed"])
def test_what_is_not_this_run_s_is_refused_in_one_line_and_changes_nothing(tmp_path, damage, message):
    made(tmp_path, value=7.0)[0].save([ROW])
    damage(tmp_path / "checkpoint.pth")
    checkpoint, head = made(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.load()
    assert str(caught.value).startswith(f"{tmp_path}/checkpoint.pth: ") and "\n" not in str(caught.value)
    assert str(caught.value).endswith("; remove it, choose another --output or start over with --rerun")
    assert not head.weight.any()


def test_a_setting_that_the_file_does_not_know_has_its_default(tmp_path):
    made(tmp_path, value=7.0)[0].save([ROW])
    path = tmp_path / "checkpoint.pth"
    state = torch.load(path, weights_only=True)
    identity = {name: value for name, value in json.loads(state["identity"]).items() if name != "held_out"}
    checkpoints.write(state | {"identity": json.dumps(identity)}, path)
    checkpoint, head = made(tmp_path)
    assert checkpoint.load() == [ROW] and torch.equal(head.weight, torch.full((3, 16), 7.0))
    with pytest.raises(ValueError, match="it is of held_out 0.1, now 0.3"):
        made(tmp_path, config=dataclasses.replace(CONFIG, held_out=0.3))[0].load()


def load_in(pairs):
    """For each pair of folders, one of either process: its message, and the lengths of all."""
    found = []
    for pair in pairs:
        text = ""
        try:
            made(pair[rank()])[0].load()
        except ValueError as error:
            text = str(error)
        found.append((text, all_gather_rows(torch.tensor([len(text)])).tolist()))
    return found


def test_processes_that_see_different_files_say_the_same(tmp_path):
    whole, damaged, none = (tmp_path / name for name in ("whole", "damaged", "none"))
    for folder in (whole, damaged, none):
        folder.mkdir()
        if folder != none:
            made(folder)[0].save([ROW])
    (damaged / "checkpoint.pth").write_text("hello")
    one, other = launch(load_in, 2, [(whole, damaged), (whole, none)])
    assert one[0].startswith(f"{damaged}/checkpoint.pth: cannot be read") and len(set(one[1])) == 1
    assert other[0].startswith(f"process 1 of 2: {whole}/checkpoint.pth: expected the same file for every "
                               "process, found 0 epochs here, 1 on the main one")
