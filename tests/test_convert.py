"""The converter's command line: exit status, what it prints, what it leaves behind."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights_toys import distinct_backbone, prefixed, small_state

from pretrain.backbones import build_projector
from transfer.convert import main
from transfer.weights import activations, export
from transfer.weights.architectures import RESNET50
from transfer.weights.naming import to_detectron2

SCRIPT = Path(__file__).parents[1] / "transfer" / "convert.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("convert") / "resnet50.pth"
    torch.save(distinct_backbone().state, path)
    yield path
    path.unlink()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(activations, "SIZES", ((64, 96),))


def test_a_good_file_is_converted_proven_and_not_overwritten(weights, tmp_path, capsys):
    output = tmp_path / "bt_d2.pkl"
    assert main([str(weights), str(output), "--name", "barlow"]) == 0
    printed = capsys.readouterr().out.rstrip().splitlines()
    assert printed[0].startswith(f"{weights}: format torchvision, sha256 ") and len(printed) == 9
    assert printed[1].startswith("file: 318 of 318 tensors bit-equal")
    assert printed[-1] == f"written {output} and bt_d2.pkl.proof.json"
    kept = json.loads((tmp_path / "bt_d2.pkl.proof.json").read_text())
    assert kept["summary"] == printed[1:-1] and kept["weights"]["name"] == "barlow"
    first = output.read_bytes()
    assert main([str(weights), str(output)]) == 2
    assert capsys.readouterr().err == f"error: {output}: exists already; pass --force to replace it\n"
    assert output.read_bytes() == first
    output.write_bytes(b"older")
    assert main([str(weights), str(output), "--force", "--format", "torchvision", "--name", "barlow"]) == 0
    assert output.read_bytes() == first, "converted again, the same bytes"
    output.unlink()


def test_there_and_back_through_the_command_line(weights, tmp_path):
    """The input, by way of a Detectron2 file, as a plain state dict: bit-equal."""
    middle, output = tmp_path / "d2.safetensors", tmp_path / "back.pth"
    assert main([str(weights), str(middle)]) == main([str(middle), str(output), "--to", "timm"]) == 0
    state = torch.load(output, weights_only=True)
    RESNET50.network().load_state_dict(state, strict=True)
    assert list(state) == list(distinct_backbone().state)
    assert all(torch.equal(state[name], tensor) for name, tensor in distinct_backbone().state.items())
    notes = json.loads((tmp_path / "back.pth.proof.json").read_text())
    assert notes["weights"]["reader"] == "detectron2" and notes["networks"] == []
    assert notes["file"]["layout"] == "timm"
    for path in (middle, output):
        path.unlink()


def renamed(model):
    return {("res2.0.conv1.weights" if name == "res2.0.conv1.weight" else name): tensor
            for name, tensor in model.items()}


WRONG_CONVERSIONS = {
    "missing": (lambda model: {name: model[name] for name in model if name != "res4.0.conv1.weight"},
                "found 317; layer3.0.conv1.weight is missing"),
    "renamed": (renamed, "found 1 others, first res2.0.conv1.weights"),
    "reshaped": (lambda model: model | {"res2.0.conv1.weight": torch.ones(64, 64)},
                 "layer1.0.conv1.weight in the file is not"),
    "channels swapped": (lambda model: model | {"stem.conv1.weight": model["stem.conv1.weight"].flip(1)},
                         "conv1.weight in the file is not the source's"),
}


@pytest.mark.parametrize("mistake, message", WRONG_CONVERSIONS.values(), ids=WRONG_CONVERSIONS)
def test_a_wrong_conversion_leaves_no_file(mistake, message, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "to_detectron2", lambda state: mistake(to_detectron2(state)))
    assert main([str(weights), str(tmp_path / "out.pkl")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {tmp_path / 'out.pkl'}: not written, the proof failed: ")
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not list(tmp_path.iterdir())


def checkpoint(folder, prefix="module.", **changes):
    """A full Barlow Twins checkpoint with a small projector; only `model` is looked at."""
    torch.manual_seed(0)
    projector = build_projector(20, "8-6-4").state_dict()
    model = {f"{prefix}projector.{name}": tensor for name, tensor in projector.items()}
    model |= {f"{prefix}backbone.conv1.weight": torch.ones(2), f"{prefix}bn.running_mean": torch.ones(4)}
    model |= {f"{prefix}{name}": tensor for name, tensor in changes.items()}
    torch.save({"epoch": 3, "model": model, "optimizer": {"state": {}}}, folder / "checkpoint.pth")
    return str(folder / "checkpoint.pth"), projector


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("ending, load", [(".pth", torch.load), (".safetensors", load_file)])
def test_the_projector_is_exported(prefix, ending, load, tmp_path, capsys):
    source, projector = checkpoint(tmp_path, prefix)
    output = tmp_path / f"projector{ending}"
    assert main([source, str(output), "--to", "projector"]) == 0
    build_projector(20, "8-6-4").load_state_dict(load(output), strict=True)
    assert all(torch.equal(tensor, projector[name]) for name, tensor in load(output).items())
    notes = json.loads((tmp_path / f"projector{ending}.proof.json").read_text())
    assert notes["weights"]["projector"] == "8-6-4" and notes["weights"]["input_features"] == 20
    assert "file: 13 of 13 tensors bit-equal" in capsys.readouterr().out


BAD_PROJECTORS = {
    "NaN": ({"projector.3.weight": torch.full((6, 8), float("nan"))}, "projector.3.weight: expected finite"),
    "another shape": ({"projector.3.weight": torch.ones(6, 9)},
                      "found projector.3.weight of shape (6, 9), expected (6, 8)"),
    "a further tensor": ({"projector.6.bias": torch.ones(4)},
                         "found projector.6.bias of shape (4,), expected none"),
    "no linear layer": ({"projector.0.weight": torch.ones(8)}, "expected a projector of linear layers"),
}


@pytest.mark.parametrize("changes, message", BAD_PROJECTORS.values(), ids=BAD_PROJECTORS)
def test_what_is_no_projector_is_refused(changes, message, tmp_path, capsys):
    source, _ = checkpoint(tmp_path, **changes)
    assert main([source, str(tmp_path / "out.pth"), "--to", "projector"]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.startswith(f"error: {source}: ") and printed.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()


def test_advice_can_be_followed_as_it_is_typed(tmp_path, capsys):
    """Each call fails but the last, which adds what the one before advises."""
    source, output = tmp_path / "two.pth", tmp_path / "out.pth"
    torch.save(prefixed("student.", small_state(0.5, "resnet18-cifar"))
               | prefixed("teacher.net.", small_state(3.5, "resnet18-cifar")), source)
    call = [str(source), str(output), "--to", "torchvision"]
    assert main(call + ["--format", "moco"]) == 2 and "not a file of the format moco but of resnet; leave" \
        in capsys.readouterr().err
    assert main(call) == 2
    names = re.search(r"2 complete ResNets, ([\w.]+), ([\w.]+), .* pass --encoder", capsys.readouterr().err)
    call += ["--encoder", names[2]]
    assert main(call) == 2 and "pass --stem small if it does, --stem cifar if not" in capsys.readouterr().err
    assert main(call + ["--stem", "cifar"]) == 0
    assert "two.pth: format resnet, encoder teacher.net, resnet18-cifar" in capsys.readouterr().out
    assert torch.load(output)["conv1.weight"][0, 0, 0, 0] == 3.5


def test_a_folder_is_named_by_the_file_in_it(tmp_path, capsys):
    """That file is the index of two others, which hold the tensors in turn."""
    state = small_state(arch="resnet18")
    where = {name: f"{number % 2}.safetensors" for number, name in enumerate(state)}
    for part in set(where.values()):
        save_file({name: state[name].contiguous() for name in state if where[name] == part}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert main([str(tmp_path), str(tmp_path / "out.pth"), "--to", "torchvision"]) == 0
    assert capsys.readouterr().out.startswith(f"{index}: format torchvision, resnet18, sha256 ")
    converted = torch.load(tmp_path / "out.pth")
    assert all(torch.equal(converted[name], state[name]) for name in state)


KILLED = """
import os, signal, sys
from transfer import convert
from transfer.weights import proof
proof.prove = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
convert.main(sys.argv[1:])
"""


def test_what_a_killed_conversion_leaves_is_gone_after_the_next(tmp_path):
    """It is killed when the file is written and about to be proven."""
    torch.save(small_state(arch="resnet18"), tmp_path / "in.pth")
    call = [str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), "--to", "torchvision"]
    subprocess.run([sys.executable, "-c", KILLED, *call], cwd=SCRIPT.parents[1])
    (left,) = tmp_path.glob(".out.*.part.pth")
    assert left.stat().st_size > 2**20
    assert main(call) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.pth", "out.pth", "out.pth.proof.json"]


WRONG_CALLS = {
    "format": (["out.pkl", "--format", "barlowtwins"], "unknown weights format barlowtwins"),
    "ending": (["out.pt"], "expected a name ending in .pkl, .pth, .safetensors for detectron2, found .pt"),
    "ending for timm": (["out.pkl", "--to", "timm"], "expected a name ending in .pth, .safetensors for timm"),
    "folder": (["absent/out.pkl"], "does not exist; create it first"),
    "no projector": (["out.pth", "--to", "projector"], "as resnet50.pth is the backbone alone"),
    "projector and format": (["out.pth", "--to", "projector", "--format", "torchvision"], "leave them out"),
}


@pytest.mark.parametrize("arguments, message", WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_calls(arguments, message, weights, tmp_path, capsys):
    assert main([str(weights), str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_as_a_script_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "absent.pth", "out.pkl"], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: absent.pth: no such weights file") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
