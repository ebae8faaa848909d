"""The folder to give away: what timm and the hub read, and that its card says nothing but what is known."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pretrain.methods import build, recipe
from results import store
from tests.test_results_record import departing, toy
from transfer import hub
from transfer.convert import main
from transfer.weights import backbone
from transfer.weights.readers import read

RECIPE = recipe(arch="resnet18", projector="8-8", epochs=7, image_size=64)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The files that a run of pretraining leaves: its checkpoint and its backbone."""
    torch.manual_seed(2)
    network = build(RECIPE)
    folder = tmp_path_factory.mktemp("run")
    model = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "model": model,
                "optimizer": {}, "config": dataclasses.asdict(RECIPE),
                "data": {"images": 1200, "fingerprint": "ab"}}, folder / "checkpoint.pth")
    torch.save(network.torchvision_state(), folder / "resnet18.pth")
    return folder


def stored(folder, weights):
    """Store a record of the weights by the paper's protocol, and a scaled one of two seeds."""
    of = {"name": "bt", "format": "torchvision", "sha256": read(weights).sha256}
    store.save(toy("imagenet_linear", {"top1": 73.5, "top5": 91.0}, backbone=of), folder)
    for seed in (0, 1):
        record = departing("voc_det", {"AP": 40.0 + seed, "AP50": 70.0}, **{"SOLVER.MAX_ITER": 10})
        store.save(dataclasses.replace(record, backbone=of, seed=seed), folder)
    return folder


def given(output):
    """Return the card's front matter, its Markdown, and config.json."""
    _, front, text = (output / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(front), text, json.loads((output / "config.json").read_text())


def test_a_checkpoint_becomes_a_folder_that_says_what_is_known(run, tmp_path, capsys):
    records, output = stored(tmp_path / "runs", run / "checkpoint.pth"), tmp_path / "given"
    words = [str(run / "checkpoint.pth"), str(output), "--to", "hub", "--results", str(records)]
    assert main([*words, "--license", "mit", "--dataset", "imagenet-1k", "--name", "my|net"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"written {output}; read its README.md, then: hf upload USER/NAME {output}")
    assert {path.name for path in output.iterdir()} == {
        "model.safetensors", "model.safetensors.proof.json", "config.json", "README.md"}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    state = load_file(output / "model.safetensors")
    wanted = torch.load(run / "resnet18.pth", weights_only=True)
    assert state.keys() == wanted.keys() and all(state[name].equal(wanted[name]) for name in wanted)
    front, text, config = given(output)
    assert (front["license"], front["library_name"], front["datasets"]) == ("mit", "timm", ["imagenet-1k"])
    assert "barlow-twins" in front["tags"] and front["model-index"][0]["name"] == "my|net"
    linear, detection = sorted(front["model-index"][0]["results"], key=lambda one: one["task"]["type"])
    assert linear["metrics"][0] == {"type": "accuracy", "name": "top1 (%), seeds: 1", "value": 73.5}
    assert linear["task"]["name"] == "imagenet_linear, version 1, by its protocol"
    assert detection["metrics"][0] == {"type": "AP", "name": "AP (%), seeds: 2", "value": 40.5}
    assert detection["task"] == {"type": "object-detection",
                                 "name": "voc_det, version 1, scaled: SOLVER.MAX_ITER 10 (24000)"}
    for line in ("- finished epochs: 3 of 7", "- training pictures: imagenet-1k (1,200 pictures)",
                 "- method: barlow_twins", "Scaled rows depart", "\nmit\n", "# my\\|net"):
        assert line in text, line
    assert all(f"| {name} " in text for name in dataclasses.asdict(RECIPE))
    assert config["architecture"] == "resnet18" and config["num_features"] == 512
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]


def test_what_is_not_known_is_said_to_be_unknown(run, tmp_path, capsys):
    output = tmp_path / "given"
    (tmp_path / "none").mkdir()
    words = [str(run / "resnet18.pth"), str(output), "--to", "hub", "--results", str(tmp_path / "none")]
    assert main(words) == 0
    front, text, config = given(output)
    assert front == {"license": "unknown", "library_name": "timm", "pipeline_tag": "image-feature-extraction",
                     "tags": ["timm", "image-feature-extraction"]}
    for line in ("- method: unknown", "- finished epochs: unknown", "- training pictures: unknown",
                 "- recipe: unknown", "Unknown: no record", "Unknown: say it before you publish"):
        assert line in text, line
    assert config["pretrained_cfg"]["input_size"] == [3, 224, 224]
    assert main(words) == 2 and "exists already; pass --force" in capsys.readouterr().err
    (output / ".gitattributes").write_text("kept")
    (output / "README.md").write_text("older")
    assert main([*words, "--force"]) == 0
    assert given(output)[1] == text and (output / ".gitattributes").read_text() == "kept"


def test_a_write_that_ends_in_the_middle_leaves_no_card_beside_other_weights(run, tmp_path, monkeypatch):
    output = tmp_path / "given"
    output.mkdir()
    names = ("model.safetensors", "model.safetensors.proof.json", "config.json", "README.md")
    for name in (*names, "notes.txt"):
        (output / name).write_text("older")

    def replace(source, target):
        if Path(target).parent == output:
            raise OSError("killed")
        os.rename(source, target)

    monkeypatch.setattr(hub.os, "replace", replace)
    with pytest.raises(OSError, match="killed"):
        hub.write(read(run / "resnet18.pth"), output, tmp_path / "runs")
    assert {path.name for path in output.iterdir()} == {"notes.txt"}


def test_the_checkpoint_of_the_run_says_the_recipe_and_has_records_too(run, tmp_path, capsys):
    records, output = stored(tmp_path / "runs", run / "checkpoint.pth"), tmp_path / "given"
    words = [str(run / "resnet18.pth"), str(output), "--to", "hub", "--results", str(records), "--checkpoint"]
    assert main([*words, str(run / "checkpoint.pth")]) == 0
    front, text, _ = given(output)
    assert "- finished epochs: 3 of 7" in text and len(front["model-index"][0]["results"]) == 2
    other = tmp_path / "other.pth"
    torch.save(build(RECIPE).torchvision_state(), other)
    capsys.readouterr()
    assert main([*words, str(other), "--force"]) == 2
    assert f"{other}: expected the checkpoint of the run that left" in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["--license", "MIT License"], "--license: expected an identifier such as mit"),
    (["--to", "timm", "--license", "mit"], "--license: expected --to hub with it, found --to timm"),
    (["--checkpoint", "no.pth"], "no.pth: no such weights file"),
    (["--results", "no/runs"], "no/runs: expected a folder of records, found none; check --results"),
], ids=["license", "another layout", "no checkpoint", "no records"])
def test_a_wrong_call_writes_nothing(run, tmp_path, capsys, words, message):
    output = tmp_path / "given"
    assert main([str(run / "resnet18.pth"), str(output), "--to", "hub", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_and_a_stem_that_timm_lacks_are_refused(run, tmp_path, capsys):
    records = stored(tmp_path / "runs", run / "resnet18.pth")
    path = next(Path(records).rglob("*.json"))
    path.write_text("{}")
    words = [str(run / "resnet18.pth"), str(tmp_path / "given"), "--to", "hub", "--results", str(records)]
    assert main(words) == 2 and str(path) in capsys.readouterr().err
    torch.save(build(recipe(arch="resnet18", stem="cifar", projector="8-8")).torchvision_state(),
               tmp_path / "small.pth")
    assert main([str(tmp_path / "small.pth"), str(tmp_path / "given"), "--to", "hub", "--stem", "cifar"]) == 2
    assert "resnet18-cifar has no form in timm" in capsys.readouterr().err
    assert not (tmp_path / "given").exists()


def test_timm_loads_the_folder_and_gives_the_features(run, tmp_path):
    timm = pytest.importorskip("timm", reason="needs timm; pip install timm")
    output = tmp_path / "given"
    assert main([str(run / "resnet18.pth"), str(output), "--to", "hub", "--results", str(tmp_path)]) == 0
    model = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(images), backbone.build(read(run / "resnet18.pth"))(images), atol=1e-5)
    assert timm.data.resolve_data_config({}, model=model)["interpolation"] == "bilinear"
