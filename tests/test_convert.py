"""The converter's command line: exit status, what it prints, what it leaves behind."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from weights_toys import distinct_backbone

from transfer.convert import main
from transfer.weights import export
from transfer.weights.naming import to_detectron2

SCRIPT = Path(__file__).parents[1] / "transfer" / "convert.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("convert") / "resnet50.pth"
    torch.save(distinct_backbone().state, path)
    yield path
    path.unlink()


def test_a_good_file_is_converted_proven_and_not_overwritten(weights, tmp_path, capsys):
    output = tmp_path / "bt_d2.pkl"
    assert main([str(weights), str(output)]) == 0
    printed = capsys.readouterr()
    assert "format torchvision, sha256 " in printed.out
    assert "file: 318 of 318 tensors bit-equal" in printed.out
    assert printed.out.rstrip().splitlines()[-1] == f"written {output}, 90 MiB"
    first = output.read_bytes()
    assert main([str(weights), str(output)]) == 2
    assert capsys.readouterr().err == f"error: {output}: exists already; pass --force to replace it\n"
    assert output.read_bytes() == first
    output.write_bytes(b"older")
    assert main([str(weights), str(output), "--force", "--format", "torchvision"]) == 0
    assert output.read_bytes() == first, "converted again, the same bytes"
    output.unlink()


def renamed(model):
    return {("res2.0.conv1.weights" if name == "res2.0.conv1.weight" else name): tensor
            for name, tensor in model.items()}


WRONG_CONVERSIONS = {
    "missing": (lambda model: {name: model[name] for name in model if name != "res4.0.conv1.weight"},
                "1 missing, first res4.0.conv1.weight"),
    "renamed": (renamed, "1 unknown, first res2.0.conv1.weights"),
    "reshaped": (lambda model: model | {"res2.0.conv1.weight": torch.ones(64, 64)},
                 "res2.0.conv1.weight in the file is not"),
    "channels swapped": (lambda model: model | {"stem.conv1.weight": model["stem.conv1.weight"].flip(1)},
                         "stem.conv1.weight in the file is not the backbone's conv1.weight"),
}


@pytest.mark.parametrize("mistake, message", WRONG_CONVERSIONS.values(), ids=WRONG_CONVERSIONS)
def test_a_wrong_conversion_leaves_no_file(mistake, message, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "to_detectron2", lambda state: mistake(to_detectron2(state)))
    assert main([str(weights), str(tmp_path / "out.pkl")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {tmp_path / 'out.pkl'}: not written, the proof failed: ")
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert not list(tmp_path.iterdir())


def test_wrong_calls(weights, tmp_path, capsys):
    assert main([str(weights), str(tmp_path / "out.pkl"), "--format", "barlowtwins"]) == 2
    assert "unknown weights format barlowtwins, known are" in capsys.readouterr().err
    assert main([str(weights), str(tmp_path / "out.pth")]) == 2
    assert "expected a name ending in .pkl" in capsys.readouterr().err
    assert main([str(weights), str(tmp_path / "absent" / "out.pkl")]) == 2
    assert "does not exist; create it first" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_as_a_script_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "absent.pth", "out.pkl"], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: absent.pth: no such weights file") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
