"""Checkpoints: the official format, the last ones kept, damage, and refusals."""
import pytest
import torch

from pretrain import checkpoint
from tests import pretrain_toys
from tests.pretrain_toys import toy_backbone, write_pictures


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(folder, **changes of the recipe) runs a small training and returns the files it left."""
    monkeypatch.setattr("pretrain.model.build_backbone", toy_backbone)
    write_pictures(tmp_path)
    return lambda folder, **changes: pretrain_toys.start(tmp_path, folder, **changes).files


def load(path):
    return torch.load(path, weights_only=True)


def test_files_are_in_the_official_format(start):
    files = start("run")
    state = load(files[0])
    assert {"epoch", "model", "optimizer"} <= set(state)
    assert {name.split(".")[1] for name in state["model"]} == {"backbone", "projector", "bn"}
    assert all(name.startswith("module.") for name in state["model"])
    assert state["model"]["module.bn.num_batches_tracked"] == 2 * 3 * 2  # views x epochs x steps
    assert [len(group["params"]) for group in state["optimizer"]["param_groups"]] == [3, 5]
    backbone = load(files[1])
    assert files[1].name == "resnet50.pth" and backbone.keys() == toy_backbone("", "")[0].state_dict().keys()
    for name, value in backbone.items():
        assert torch.equal(value, state["model"]["module.backbone." + name])
    lines = files[2].read_text().splitlines()
    assert lines[0] == "the command" and len(lines) == 7
    assert not list(files[0].parent.glob("*.part"))


@pytest.mark.parametrize("keep, numbers", [(1, []), (2, [4, 6]), (5, [2, 4, 6])])
def test_the_last_ones_are_kept(start, tmp_path, keep, numbers):
    path = start("run", run={"keep": keep})[0]
    names = [f"checkpoint-{number:09}.pth" for number in numbers]
    assert sorted(file.name for file in path.parent.glob("check*")) == [*names, "checkpoint.pth"]
    assert [load(path.parent / name)["step"] for name in names] == numbers
    assert load(path)["step"] == 6
    if numbers:
        assert (path.parent / names[-1]).samefile(path)  # no second copy


def test_without_second_names_the_newest_is_copied(start, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError("not here")))
    path = start("run")[0]
    newest = path.with_name("checkpoint-000000006.pth")
    assert newest.read_bytes() == path.read_bytes() and not newest.samefile(path)


def test_a_checkpoint_holds_what_a_resume_needs(start):
    state = load(start("run", precision="fp16")[0])
    assert set(state) == checkpoint.OURS
    assert state["sampler"] == {"epoch": 3, "start": 0} and state["step"] == 6 and state["processes"] == 1
    assert state["config"]["blur"] == (1.0, 0.1) and state["scaler"]["scale"] > 0
    assert state["rng"]["cpu"].shape[0] == 1 and state["guard"]["counted"] > 0


def test_a_finished_run_is_left_as_it_is(start):
    before = load(start("run")[0])["model"]
    after = load(start("run")[0])["model"]
    assert all(torch.equal(after[name], value) for name, value in before.items())


def spoil(path, **changes):
    torch.save({name: value for name, value in (load(path) | changes).items() if value is not None}, path)


def flip_a_byte(path):
    """In the middle of the weights, where only a checksum can tell."""
    content = bytearray(path.read_bytes())
    weights = load(path)["model"]["module.projector.0.weight"].numpy().tobytes()
    content[content.index(weights) + 9] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change, settings, message", [
    (lambda path: None, {"lambd": 0.1, "seed": 4},
     "was written by another recipe: lambd 0.0051, now 0.1; seed 0, now 4; use the same"),
    (lambda path: None, {"accumulate": 2}, "another recipe: accumulate 1, now 2; use the same"),
    (lambda path: (path.parent.parent / "train" / "a" / "0.png").unlink(), {}, "images 10, now 9"),
    (lambda path: spoil(path, config=None, data=None), {}, "without config, data; no good one is beside it"),
    (lambda path: path.write_bytes(path.read_bytes()[:3000]), {}, "checkpoint.pth: cannot be read as a"),
    (lambda path: path.write_text("hello"), {}, "checkpoint.pth: cannot be read as a"),
    (flip_a_byte, {}, "is damaged: its part .* does not fit its checksum; no good one is beside it; move it"),
    (lambda path: spoil(path, processes=2), {"reference_world_size": "actual"},
     "written by 2 processes, now 1, and with --reference-world-size actual their number is part of the"),
], ids=["recipe", "accumulate", "data", "official", "truncated", "text", "flipped", "processes"])
def test_resuming_what_does_not_fit_is_refused(start, tmp_path, change, settings, message):
    start("run", epochs=1, **{name: settings[name] for name in settings if name == "reference_world_size"})
    path = tmp_path / "run" / "checkpoint.pth"
    change(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as caught:
        start("run", **({"epochs": 1} | settings))
    assert "\n" not in str(caught.value) and path.read_bytes() == before


@pytest.mark.parametrize("damage", [flip_a_byte, lambda path: path.write_bytes(path.read_bytes()[:3000])],
                         ids=["flipped", "truncated"])
def test_a_damaged_newest_names_the_good_one_before_it(start, tmp_path, damage):
    whole = load(start("run")[0])
    path = tmp_path / "run" / "checkpoint.pth"
    damage(path)
    good = path.with_name("checkpoint-000000004.pth")
    with pytest.raises(ValueError, match=f"the newest good one is {good} with 2 finished epochs and 0 steps; "
                                         "copy it to checkpoint.pth to go on from there"):
        start("run")
    path.write_bytes(good.read_bytes())
    again = load(start("run")[0])
    assert all(torch.equal(value, whole["model"][name]) for name, value in again["model"].items())


def test_a_missing_newest_names_the_ones_beside_it(start, tmp_path):
    start("run")[0].unlink()
    with pytest.raises(ValueError, match="pth is missing, but checkpoint-000000006.pth is beside it"):
        start("run")


def test_weights_that_are_not_finite_are_never_saved(start, tmp_path):
    with pytest.raises(ValueError, match="weights are not finite after 1 finished epochs and 0 steps, first "
                                         ".*; there is no checkpoint yet"):
        start("fresh", learning_rate_weights=1e30, warmup_epochs=0, epochs=1, batch_size=8)
    assert not (tmp_path / "fresh" / "checkpoint.pth").exists()
