"""What describe.py says of files that are good, damaged or unknown, and that its figures are right."""
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import classification_toys as toys
import pytest
import torch
from weights_toys import distinct_backbone, prefixed, small_state

from pretrain.backbones import build_projector
from transfer.describe import main
from transfer.request import Request
from transfer.weights import inspection
from transfer.weights.architectures import ARCHITECTURES
from transfer.weights.backbone import Backbone
from transfer.weights.export import metadata, write
from transfer.weights.formats import READERS
from transfer.weights.readers import random_backbone, read
from transfer.weights.report import Report, report_path

pytestmark = pytest.mark.filterwarnings("ignore:Validating sparse tensor")
SCRIPT = Path(__file__).parents[1] / "transfer" / "describe.py"


def barlowtwins(state):
    """checkpoint.pth of this suite, with a narrow projector."""
    projector = prefixed("module.projector.", build_projector(2048, "8-6-4").state_dict())
    model = prefixed("module.backbone.", state) | projector | {"module.bn.running_mean": torch.zeros(4)}
    momentum = {0: {"mu": torch.ones(3)}, 1: {"mu": torch.ones(2)}}
    return {"epoch": 3, "model": model, "optimizer": {"state": momentum},
            "scaler": torch.amp.GradScaler("cpu").state_dict(), "config": {"precision": "fp16"}}


def moco():
    return {"epoch": 200, "state_dict": prefixed("module.encoder_q.", small_state()) | prefixed(
        "module.encoder_k.", small_state(2.5)) | {"module.queue": torch.ones(128, 16)}}


@pytest.fixture
def describe(tmp_path, monkeypatch, capsys):
    """describe(content or None, *flags) -> status, {label: text}, lines, standard error; of file.pth."""
    monkeypatch.chdir(tmp_path)

    def run(content, *flags, path="file.pth"):
        if content is not None:
            torch.save(content, path)
        status = main([path, *flags])
        printed = capsys.readouterr()
        lines = printed.out.splitlines()
        rows, label = {}, ""
        above = lines[1:lines.index("")] if "" in lines else lines[1:]
        for line in above + [line for line in lines if line.startswith("untrained?")]:
            label = line[:12].strip() or label
            rows[label] = (f"{rows[label]} " if line[:12] == " " * 12 else "") + line[13:].strip()
        return status, rows, lines, printed.err
    return run


def test_a_full_checkpoint(describe):
    status, rows, lines, error = describe(barlowtwins(small_state()))
    assert (status, error, lines[0]) == (0, "", "file.pth")
    assert rows["reader"] == "barlowtwins_checkpoint" and rows["method"] == "Barlow Twins"
    assert rows["encoders"] == "backbone" and rows["epoch"] == "3"
    assert rows["sha256"] == hashlib.sha256(Path("file.pth").read_bytes()).hexdigest()
    assert rows["size"].endswith("MiB, 334 tensors (279 float32, 55 int64)")
    assert rows["also holds"] == ("projector (13 tensors, 2048-8-6-4), bn (1 tensor), epoch, optimizer"
                                  " (2 tensors), scaler, config")
    assert rows["network"] == "resnet50, 318 of 318 tensors in their shapes (265 float32, 53 int64)"
    assert rows["16 bit"] == "scaler is a gradient scaler's, for float16; config/precision is fp16"
    assert rows["NaN or Inf"] == "none in any tensor" and rows["untrained?"] == "no sign of it"
    table = [line.split() for line in lines if line.startswith(("stem", "layer"))]
    assert [row[:5] for row in table] == [
        ["stem", "6", "-", "64", "9,665"], ["layer1", "60", "3", "256", "218,634"],
        ["layer2", "78", "4", "512", "1,226,765"], ["layer3", "114", "6", "1024", "7,118,867"],
        ["layer4", "60", "3", "2048", "14,987,274"]]
    assert max(map(len, lines)) <= 110 and all(line == line.rstrip() for line in lines)
    status, _, lines, _ = describe(None, "--json")
    found = json.loads("\n".join(lines))
    assert status == 0 and found.pop("file") == "file.pth" and found.pop("refused") is None
    assert found == {label: text for label, text in rows.items() if label != "untrained?"}


def test_the_encoder_that_is_asked_for(describe):
    status, rows, lines, _ = describe(moco(), "--encoder", "key")
    assert status == 0 and rows["encoders"] == "query, key (described)" and rows["method"] == "MoCo v1 or v2"
    assert rows["also holds"] == "queue (1 tensor), epoch"
    assert next(line for line in lines if line.startswith("stem")).split()[5:] == ["2.5", "2.504", "2.504"]
    status, rows, _, error = describe(moco(), "--encoder", "kex")
    assert status == 2 and rows["encoders"] == "query (described), key"
    assert error == ("error: file.pth: unknown encoder kex, a file of the format moco has query, key;"
                     " name one of them\n")


def test_nan_is_described_wherever_it_is(describe):
    content = barlowtwins(small_state())
    bad = content["model"]["module.backbone.layer3.0.bn1.running_var"].clone()
    bad[3], bad[4] = math.nan, math.inf
    content["model"]["module.backbone.layer3.0.bn1.running_var"] = bad
    content["optimizer"]["state"][1]["mu"][0] = -math.inf
    status, rows, lines, error = describe(content)
    assert rows["NaN or Inf"] == ("in 2 tensors, first model/module.backbone.layer3.0.bn1.running_var"
                                  " (2 of 256 values)")
    assert next(line for line in lines if line.startswith("layer3")).split()[-1] == "nan"
    assert status == 2 and error.startswith("error: file.pth: layer3.0.bn1.running_var: expected finite")
    del content["model"]["module.backbone.layer3.0.bn1.running_var"]
    content["model"]["module.backbone.layer3.0.bn1.running_var"] = small_state()["layer3.0.bn1.running_var"]
    status, rows, _, error = describe(content)
    assert rows["NaN or Inf"] == "in 1 tensor, first optimizer/state/1/mu (1 of 2 values)"
    assert (status, error) == (0, ""), "the backbone itself is sound"


def test_an_unknown_file_is_described_as_far_as_it_goes(describe):
    state = small_state()
    del state["bn1.bias"]
    status, rows, lines, error = describe({"net": prefixed("trunk.", state), "note": "x"})
    assert rows["reader"] == "none; described is what stands under net/trunk.*"
    assert rows["holds"].startswith("net/trunk.conv1 (1 tensor), net/trunk.bn1 (4 tensors), net/trunk.lay")
    assert rows["holds"].endswith("net/trunk.layer4 (60 tensors), note") and "method" not in rows
    assert rows["network"].startswith("resnet50, 317 of 318")
    assert any(line.split()[:2] == ["layer4", "60"] for line in lines)
    assert status == 2 and error.count("\n") == 1
    assert "resnet50 under net/trunk.*, 1 of 318 backbone tensors missing, first bn1" in error


NO_BACKBONES = {
    "list": ([torch.ones(2), "x"], "nothing", "1 tensor"),
    "empty": ({}, "nothing", "0 tensors"),
    "many keys": ({f"image{index}": torch.ones(2) for index in range(25)},
                  "image19 (1 tensor), and 5 more", "25 tensors"),
    "odd keys": ({1: torch.ones(2), None: 3}, "None", "1 tensor"),
    "bare layers": ({"0.weight": torch.ones(2, 3)}, "layers without a name (1 tensor, 3-2)", "1 tensor"),
}


@pytest.mark.parametrize("content, holds, tensors", NO_BACKBONES.values(), ids=NO_BACKBONES)
def test_a_file_without_a_resnet(content, holds, tensors, describe):
    status, rows, lines, error = describe(content)
    assert rows["reader"] == "none; nothing like a ResNet in it" and rows["network"].startswith("none")
    assert rows["holds"].endswith(holds) and f", {tensors}" in rows["size"]
    reason = "no known format matched" if isinstance(content, dict) else "expected a dictionary of tensors"
    assert status == 2 and error.startswith(f"error: file.pth: {reason}")
    assert "untrained?" not in rows and not any(line.startswith("stage") for line in lines)


def test_odd_tensors_do_not_stop_the_description(describe):
    state = small_state() | {"bn1.bias": torch.ones(64).to_sparse(),
                             "bn1.weight": torch.ones(64, device="meta"),
                             "conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8),
                             "layer1.0.bn1.running_var": torch.ones(0), "layer5.weight": torch.ones(3)}
    status, rows, lines, error = describe(state)
    assert rows["network"] == "resnet50, 317 of 318 tensors in their shapes (265 float32, 53 int64, 1 int8)"
    assert any(line.startswith("other") for line in lines)
    assert status == 2 and "1 foreign to resnet50, first layer5.weight" in error


def test_another_network(describe):
    state = small_state(arch="resnet18") | {"fc.weight": torch.ones(5, 512), "fc.bias": torch.ones(5)}
    status, rows, lines, _ = describe(state)
    assert rows["network"].startswith("resnet18, 120 of 120") and status == 0
    assert rows["also holds"] == "fc (2 tensors, 512-5)"
    assert any(line.split()[:4] == ["layer4", "30", "2", "512"] for line in lines)


def test_a_stem_that_the_file_does_not_say_is_asked_for(describe):
    status, rows, _, error = describe(small_state(arch="resnet18-cifar"))
    assert rows["network"].startswith("resnet18 with a 3 x 3 stem, 120 of 120") and status == 2
    assert "pass --stem small" in error
    status, rows, _, _ = describe(small_state(arch="resnet18-cifar"), "--stem", "cifar")
    assert rows["network"].startswith("resnet18-cifar, 120 of 120") and status == 0


def test_a_conversion_says_where_it_comes_from(describe):
    source = Backbone("bt", "barlowtwins_checkpoint", distinct_backbone().state, "a" * 64, "bt.pth")
    for path in ("file.pth", "file.safetensors"):
        write(distinct_backbone().state, metadata(source), path, "torchvision")
    status, rows, _, _ = describe(None, path="file.safetensors")
    assert status == 0 and (rows["reader"], rows["method"]) == ("torchvision", "Barlow Twins")
    assert rows["converted"].startswith(f"name bt, source_sha256 {'a' * 64}, reader barlowtwins_checkpoint,")
    assert "INPUT.FORMAT RGB" in rows["converted"] and "proof" not in rows
    sha256 = hashlib.sha256(Path("file.pth").read_bytes()).hexdigest()
    file = {"tensors": 318, "bytes": 1, "layout": "torchvision", "sha256": sha256}
    Report(metadata(source), file, ()).save(report_path(Path("file.pth")))
    assert describe(None)[1]["proof"] == "file.pth.proof.json, of this file"
    Report(metadata(source), file | {"sha256": "b" * 64}, ()).save(report_path(Path("file.pth")))
    assert describe(None)[1]["proof"] == "file.pth.proof.json, but of another file"
    report_path(Path("file.pth")).write_text("{")
    assert describe(None)[1]["proof"] == "file.pth.proof.json, which cannot be read"
    report_path(Path("file.pth")).unlink()
    os.mkfifo(report_path(Path("file.pth")))
    assert describe(None)[1]["proof"] == "file.pth.proof.json, which cannot be read", "and does not wait"
    for path in ("file.pth", "file.safetensors"):
        Path(path).unlink()


def test_epochs():
    assert inspection.epoch({"epoch": 7}) == inspection.epoch({"meta": {"epoch": 7}}) == 7
    assert inspection.epoch({"epoch": "7"}) is inspection.epoch({}) is inspection.epoch([]) is None


def test_methods_are_those_of_readers():
    assert inspection.METHODS.keys() < READERS.keys()


def test_figures_of_a_stage():
    state = {"layer1.0.conv1.weight": torch.tensor([3.0, 4.0]).view(2, 1, 1, 1),
             "layer1.0.bn1.bias": torch.ones(2), "layer1.1.bn1.running_var": torch.ones(2),
             "layer1.0.bn1.running_var": torch.tensor([0.5, 2.0])}
    assert inspection.stages(state) == [inspection.Stage("layer1", 4, 2, 2, 8, math.sqrt(12.5), (0.5, 2.0))]


COUNTER, STATISTICS, AFFINE, DRAWN = ("batch counter 0", "running mean 0 and variance 1",
                                      "batch norm's weight 1 (or 0), bias 0",
                                      "convolution of mean 0, He's deviation")


def test_an_untrained_network_shows_every_sign_and_a_trained_layer_one_less(describe):
    state = dict(read("random").state)
    assert inspection.as_initialised(state) == dict.fromkeys((COUNTER, STATISTICS, AFFINE, DRAWN), (53, 53))
    for norm in [name for name in state if name.endswith("bn3.weight")]:
        state[norm] = torch.zeros_like(state[norm])  # zero_init_residual
    assert inspection.as_initialised(state)[AFFINE] == (53, 53)
    state["bn1.num_batches_tracked"] = torch.tensor(7)
    state["layer1.0.bn1.running_var"] = torch.full((64,), 1.01)
    state["layer1.1.bn1.running_mean"] = torch.full((64,), 0.01)
    state["layer2.0.bn1.bias"] = torch.full((128,), 0.01)
    state["layer2.0.bn2.weight"] = torch.full((128,), 0.99)
    state["layer3.0.conv2.weight"] = state["layer3.0.conv2.weight"] * 1.02
    state["layer4.0.conv2.weight"] = state["layer4.0.conv2.weight"] + 0.001
    assert inspection.as_initialised(state) == {COUNTER: (52, 53), STATISTICS: (51, 53), AFFINE: (51, 53),
                                                DRAWN: (51, 53)}


def test_the_effective_rank_beside_that_of_random_weights(describe, tmp_path):
    """A network that answers each picture with one vector, and the random one itself."""
    toys.image_tree(tmp_path / "data")
    random = random_backbone(arch=ARCHITECTURES["resnet18"]).state
    flat = random | {name: torch.zeros_like(tensor) for name, tensor in random.items()
                     if name == "layer4.1.bn2.weight" or "layer4.0" in name and name.endswith("weight")}
    flat["layer4.1.bn2.bias"] = torch.ones(512)
    for state, found in (flat, r"1\.0"), (random, r"(\d+\.\d)"):
        status, _, lines, error = describe(state, "--data", "data", "--image-size", "32")
        assert (status, error) == (0, "") and lines[-3] == ""
        assert re.fullmatch(f"effective rank {found} of 512 directions, by 14 of 14 pictures at 32 px",
                            lines[-2])
        other = re.fullmatch(r"random weights (\d+\.\d); the file has no more, a sign of a collapse, or of "
                             "training on few classes", lines[-1])[1]
        assert 1.5 < float(other) < 14
    assert f" {other} of 512" in lines[-2]


def test_pictures_that_cannot_be_read_are_an_error(describe, tmp_path, monkeypatch):
    monkeypatch.setattr(Request, "workers", 0)  # a test's end waits for those of a loader that failed
    state = random_backbone(arch=ARCHITECTURES["resnet18"]).state
    (tmp_path / "a.jpg").write_text("no picture")
    status, _, lines, error = describe(state, "--data", ".", "--image-size", "32")
    assert status == 2 and "a.jpg: unreadable image" in error and error.count("\n") == 1
    assert not any("effective" in line for line in lines)
    assert describe(state, "--data", "none")[0] == 2
    error = describe(state, "--image-size", "5")[3]
    assert error == "error: --image-size: expected 16 to 1024 pixels, found 5\n"


VERDICTS = {
    "yes, all layers as initialised": dict.fromkeys((STATISTICS, DRAWN), (53, 53)) | {COUNTER: (0, 0)},
    "in part": {STATISTICS: (53, 53), DRAWN: (0, 53)}, "no sign of it": {STATISTICS: (0, 53), DRAWN: (0, 53)},
}


@pytest.mark.parametrize("verdict, signs", VERDICTS.items(), ids=VERDICTS)
def test_verdicts(verdict, signs, describe, monkeypatch):
    monkeypatch.setattr(inspection, "as_initialised", lambda state: signs)
    _, rows, lines, _ = describe(small_state())
    assert rows["untrained?"] == verdict and not any(line.startswith(COUNTER) for line in lines)


def kernel(dtype, rounded=None):
    values = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return {"conv1.weight": values.to(rounded or dtype).to(dtype),
            "bn1.weight": torch.ones(4, dtype=torch.float16)}


SIXTEEN = {
    "float32": ({}, kernel(torch.float32), []),
    "stored": ({}, kernel(torch.float16), ["1 of 1 convolutions are stored in float16"]),
    "rounded": ({}, kernel(torch.float32, torch.bfloat16),
                ["every weight of the convolutions is a bfloat16 number"]),
    "rounded to float16": ({}, kernel(torch.float32, torch.float16),
                           ["every weight of the convolutions is a float16 number"]),
    "apex": ({"amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 3}}}, {},
             ["amp/loss_scaler0 is a gradient scaler's, for float16"]),
    "a scaler that is off": ({"scaler": {}, "config": {"precision": "fp32"}}, {}, []),
    "bf16": ({"config": {"precision": "bf16"}}, {}, ["config/precision is bf16"]),
}


@pytest.mark.parametrize("raw, state, shown", SIXTEEN.values(), ids=SIXTEEN)
def test_sixteen_bits(raw, state, shown):
    assert inspection.sixteen_bit(raw, state) == shown


def test_as_a_script_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "absent.pth"], cwd=tmp_path, text=True,
                          capture_output=True)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: absent.pth: no such weights file") and done.stderr.count("\n") == 1
