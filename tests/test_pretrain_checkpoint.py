"""Checkpoints: the official format, the last ones kept, damage, and refusals."""
import pytest
import torch

from parallel.launch import launch
from pretrain.upkeep import checkpoint
from tests import pretrain_toys
from tests.checkpoint_damage import changed
from tests.pretrain_toys import toy_backbone, write_pictures


@pytest.fixture
def start(tmp_path, monkeypatch):
    """start(folder, **changes of the recipe) runs a small training and returns the files it left."""
    monkeypatch.setattr("pretrain.backbones.build_backbone", toy_backbone)
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
    assert not list(files[0].parent.glob("*.part*"))


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
     "was written by another recipe: seed 0, now 4; lambd 0.0051, now 0.1; use the same"),
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


def test_a_checkpoint_of_before_there_were_methods_is_barlow_twins(start, tmp_path):
    """It has no method, and none of the settings that came later."""
    start("whole", epochs=2)
    start("old", epochs=2)
    path = checkpoint.earlier(tmp_path / "old" / "checkpoint.pth")[-1]
    state = torch.load(path, weights_only=True)
    for name in ("method", "optimizer", "schedule"):
        del state["config"][name]
    torch.save(state, tmp_path / "old" / "checkpoint.pth")
    with pytest.raises(ValueError, match="another recipe: .*method barlow_twins, now vicreg"):
        start("old", epochs=2, method="vicreg")
    start("old", epochs=2)
    found, wanted = (torch.load(tmp_path / one / "checkpoint.pth", weights_only=True)
                     for one in ("old", "whole"))
    assert found["config"] == wanted["config"]
    assert all(torch.equal(found["model"][name], wanted["model"][name]) for name in wanted["model"])


def test_a_missing_newest_names_the_ones_beside_it(start, tmp_path):
    start("run")[0].unlink()
    with pytest.raises(ValueError, match="pth is missing, but checkpoint-000000006.pth is beside it"):
        start("run")


def test_weights_that_are_not_finite_are_never_saved(start, tmp_path):
    with pytest.raises(ValueError, match="weights are not finite after 1 finished epochs and 0 steps, first "
                                         ".*; there is no checkpoint yet"):
        start("fresh", learning_rate_weights=1e30, warmup_epochs=0, epochs=1, batch_size=8)
    assert not (tmp_path / "fresh" / "checkpoint.pth").exists()


@pytest.mark.parametrize("damage, message", [
    (lambda path: path.write_bytes(b""), "cannot be read as a checkpoint"),
    (lambda path: (path.unlink(), path.mkdir()), "expected a file, found a folder or device"),
    (lambda path: torch.save([1], path), "found one without any names"),
    (lambda path: torch.save({"model": {}}, path), "found one without epoch, optimizer"),
    (changed("epoch", to=1.0), "place.epoch: expected int, found float"),
    (changed("sampler", to=[0, 0]), "place.sampler: expected dict, found list"),
    (changed("sampler", "start", to=1), "it stands at 1 finished epochs and 1 steps, step 2, of 1"),
    (changed("step", to=-2), "it stands at 1 finished epochs and 0 steps, step -2"),
    (changed("config", to=3), "expected config and data as dicts of settings, found others"),
    (changed("config", "blur", to=(torch.zeros(2), 1)), "another recipe: blur .*now .1.0, 0.1."),
    (changed("model", to={}), "model: expected module.backbone.0.weight, found none"),
    (changed("model", to=3), "model: expected dict, found int"),
    (changed("model", "module.projector.0.weight", to=torch.zeros(2, 2)), "expected float32 .8, 6."),
    (changed("model", "module.projector.0.weight", to=torch.zeros(8, 6).half()), "found float16 .8, 6."),
    (changed("model", "module.more", to=torch.zeros(1)), "model: found module.more, which is not expected"),
    (changed("optimizer", to=None), "found one without optimizer"),
    (changed("optimizer", "state", 0, "mu", to=torch.zeros(3)), "optimizer.state.0.mu: expected float32"),
    (changed("optimizer", "state", to={}), "optimizer.state: expected 0, found none"),
    (changed("optimizer", "param_groups", 0, "momentum", to=0.5), "group 0 was made with momentum 0.5, now"),
    (changed("guard", "mean", to="nan"), "guard.mean: expected float, found str"),
    (changed("guard", "begin", to=1), "guard: found begin, which is not expected"),
    (changed("feed", to=[]), "feed: expected dict, found list"),
    (changed("rng", to=[]), "rng: expected dict, found list"),
    (changed("rng", "cpu", to=torch.zeros(1, 3, dtype=torch.uint8)), "rng.cpu: expected uint8 .1, 5056., fo"),
    (changed("rng", "cpu", to=torch.zeros(1, 5056, dtype=torch.uint8)), "rng.cpu: Invalid mt19937 state"),
    (changed("processes", to=2), "rng.cpu: expected uint8 .2, 5056., found uint8 .1, 5056."),
])
def test_what_no_run_of_this_recipe_wrote_is_one_line(start, tmp_path, damage, message):
    """Whatever is missing, of another kind or shape, or does not belong together."""
    start("run", epochs=1, run={"keep": 1})
    path = tmp_path / "run" / "checkpoint.pth"
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        start("run", epochs=1)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and "; " in str(caught.value)


def resume_in(root, pairs):
    """For each pair of folders, one of either process: its message, and the lengths of all."""
    from parallel.collectives import all_gather_rows, rank
    from pretrain import backbones
    from pretrain.trainer import prepare
    backbones.build_backbone = toy_backbone
    found = []
    for pair in pairs:
        recipe, run = pretrain_toys.toy_recipe(), pretrain_toys.toy_run(root, pair[rank()])
        training = prepare(recipe, run)
        text = ""
        try:
            checkpoint.resume(run.checkpoint, training.parts, recipe, training.feed.identity)
        except ValueError as error:
            text = str(error)
        found.append((text, all_gather_rows(torch.tensor([len(text)])).tolist()))
    return found


def test_processes_that_see_different_files_say_the_same(start, tmp_path):
    whole = start("whole")[0]
    damaged, earlier = (tmp_path / name / "checkpoint.pth" for name in ("damaged", "earlier"))
    for path in (damaged, earlier):
        path.parent.mkdir()
    damaged.write_text("hello")
    earlier.write_bytes(whole.with_name("checkpoint-000000004.pth").read_bytes())
    one, other = launch(resume_in, 2, tmp_path, [("whole", "damaged"), ("whole", "earlier")])
    assert one[0].startswith(f"{damaged}: cannot be read") and len(set(one[1])) == 1
    assert other[0].startswith(f"process 1 of 2: {whole}: expected the same file for every process, found "
                               "2 finished epochs and 0 steps here, 3 finished epochs and")
