"""What a detector continues from: last_checkpoint's file, whole and this run's in all, or one line."""
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.solver import LRMultiplier
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from parallel import checkpoints
from parallel.collectives import all_gather_rows, rank
from parallel.launch import launch
from tests.checkpoint_damage import changed
from transfer.detection import resumption, trainer
from transfer.detection.accumulation import AccumulatingTrainer
from transfer.detection.curves import read_metrics

IDENTITY = {"SOLVER.BASE_LR": 0.1, "weights": "ab" * 32, "seed": 0, "batch_norm_images": 2}
ITERATIONS = 5


class Toy(trainer.Trainer):
    """Our trainer around a network of one layer, after so many steps."""

    def __init__(self, out, steps=0):
        TrainerBase.__init__(self)
        torch.manual_seed(0)
        self.cfg = SimpleNamespace(SOLVER=SimpleNamespace(MOMENTUM=0.9, AMP=SimpleNamespace(ENABLED=False)))
        network = nn.Sequential(nn.Linear(16, 2), nn.BatchNorm1d(2))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        self._trainer = AccumulatingTrainer(network, [], optimizer, 1, False)
        schedule = LRMultiplier(optimizer, MultiStepParamScheduler([1, 0.1], milestones=[3, 5]), ITERATIONS)
        self.register_hooks([hooks.LRScheduler(optimizer, schedule)])
        self.checkpointer = resumption.Checkpointer(network, str(out), trainer=self)
        self.checkpointer.identity = IDENTITY
        for self.iter in range(steps):
            self._trainer.iter = self.iter
            optimizer.zero_grad()
            network(torch.rand(4, 16)).square().sum().backward()
            optimizer.step()
            schedule.step()


def save(out, steps=3):
    Toy(out, steps).checkpointer.save(f"model_{steps - 1:07d}", iteration=steps - 1)
    return out / f"model_{steps - 1:07d}.pth"


def read(out):
    toy = Toy(out)
    return resumption.read(out, IDENTITY, toy.model.state_dict(), ITERATIONS, toy)


def zeroed(file):
    content = bytearray(file.read_bytes())
    start = content.index(torch.load(file, weights_only=True)["model"]["0.weight"].numpy().tobytes())
    content[start:start + 64] = bytes(64)
    file.write_bytes(content)


def test_a_checkpoint_has_all_that_the_trainer_had(tmp_path):
    save(tmp_path)
    before, after = Toy(tmp_path, 3), Toy(tmp_path)
    state = read(tmp_path)
    after.load_state_dict(state["trainer"])
    assert after.iter == 2 and checkpoints.unlike(after.state_dict(), before.state_dict(), "") == ""
    kept, left = (toy.optimizer.state_dict() for toy in (after, before))
    for key, value in left["state"].items():
        assert torch.equal(kept["state"][key]["momentum_buffer"], value["momentum_buffer"])
    assert kept["param_groups"] == left["param_groups"]
    assert kept["param_groups"][0]["lr"] == pytest.approx(0.01)
    assert not list(tmp_path.glob("*.part*"))
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


@pytest.mark.parametrize("damage, message", [
    (zeroed, "is damaged: its part .* does not fit its checksum"),
    (lambda file: file.unlink(), "expected a file, found none"),
    (lambda file: file.write_bytes(b""), "cannot be read as a checkpoint"),
    (lambda file: file.write_bytes(file.read_bytes()[:-500]), "cannot be read as a checkpoint"),
    (lambda file: torch.save(nn.Linear(2, 2).state_dict(), file), "found one without iteration, model"),
    (changed("trainer"), "found one without trainer"),
    (changed("trainer", to=3), "trainer: expected dict, found int"),
    (changed("trainer", "_trainer"), "trainer: expected _trainer, found none"),
    (changed("trainer", "_trainer", "optimizer"), "trainer._trainer: expected optimizer, found none"),
    (changed("trainer", "_trainer", "optimizer", "state", 1), "optimizer.state: expected 1, found none"),
    (changed("trainer", "hooks"), "trainer: expected hooks, found none"),
    (changed("trainer", "hooks", "LRScheduler", "last_epoch", to=1), "expected iteration 2 and the rates"),
    (changed("trainer", "hooks", "LRScheduler", "base_lrs", to=[0.2]), "expected iteration 2 and the rates"),
    (changed("trainer", "iteration", to=1), "found iterations 1 and 2"),
    (changed("iteration", to=2.0), "iteration: expected int, found float"),
    (changed("iteration", to=7), "iteration 7 is none of 5"),
    (changed("model", "0.weight"), "model: expected 0.weight, found none"),
    (changed("model", "1.running_var", to=torch.ones(3)), r"1.running_var: expected float32 \(2,\), found"),
    (changed("model", "extra", to=torch.ones(3)), "model: found extra, which is not expected"),
    (changed("identity", "seed", to=4), "it is of seed 4, now 0"),
    (changed("identity", "weights", to="cd"), "it is of weights cd, now abab"),
    (changed("identity", to=4), "identity: expected dict, found int"),
], ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""))
def test_what_is_not_this_run_s_is_refused_in_one_line(tmp_path, damage, message):
    path = save(tmp_path)
    damage(path)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path}: ")
    assert "start over with --rerun" in str(caught.value)


@pytest.mark.parametrize("name", ["", "model_0000002.pkl", "../a.pth", "/a.pth", "a/a.pth", "http://a/b.pth"])
def test_last_checkpoint_is_a_bare_name(tmp_path, name):
    save(tmp_path)
    (tmp_path / "last_checkpoint").write_text(name)
    with pytest.raises(ValueError, match="expected the name of a .pth file of this folder, found '.*write "
                                         "that of a good checkpoint there .model_0000002.pth."):
        read(tmp_path)


def test_last_checkpoint_is_a_file_of_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mark").write_text("model_0000002.pth")
    (tmp_path / "run" / "last_checkpoint").symlink_to(tmp_path / "mark")
    with pytest.raises(ValueError, match="expected a file of its folder, found a link"):
        read(tmp_path / "run")


def test_older_checkpoints_have_no_identity_and_settings_they_do_not_know_are_the_default(tmp_path):
    path = save(tmp_path)
    changed("identity", "SOLVER.BASE_LR", to=0.2)(path)
    with pytest.raises(ValueError, match="SOLVER.BASE_LR 0.2, now 0.1"):
        read(tmp_path)
    changed("identity", "SOLVER.BASE_LR")(path)  # Detectron2's default is 0.001
    with pytest.raises(ValueError, match="SOLVER.BASE_LR 0.001, now 0.1"):
        read(tmp_path)
    changed("identity")(path)
    assert read(tmp_path)["iteration"] == 2


def read_in(pairs):
    """For each pair of folders, one of either process: its message, and the lengths of all."""
    found = []
    for pair in pairs:
        text = ""
        try:
            read(pair[rank()])
        except ValueError as error:
            text = str(error)
        found.append((text, all_gather_rows(torch.tensor([len(text)])).tolist()))
    return found


def test_processes_that_see_different_files_say_the_same(tmp_path):
    three, four, damaged = folders = [tmp_path / name for name in ("three", "four", "damaged")]
    (tmp_path / "none").mkdir()
    for folder, steps in zip(folders, (3, 4, 3)):
        folder.mkdir()
        path = save(folder, steps)
    zeroed(path)
    one, other, third = launch(read_in, 2, [(three, damaged), (three, four), (three, tmp_path / "none")])
    assert one[0].startswith(f"{path}: is damaged") and len(set(one[1])) == 1
    assert other[0].startswith(f"process 1 of 2: {three}: expected the same checkpoint on every process, "
                               "found iteration 3 here, 2 on the main one; choose an --output")
    assert "found iteration None here, 2 on the main one" in third[0]


@pytest.mark.parametrize("line", ["hello", "[1]", '{"loss": 1}', '{"iteration": "7"}', "\x00\xff"])
def test_a_foreign_line_of_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 0}\n' + line + '\n{"iteration": 1}')
    for reading in (read_metrics, lambda path: trainer.forget_after(path, 1)):
        with pytest.raises(ValueError, match="metrics.json: expected an object with an iteration in line 2"):
            reading(path)


def test_a_line_that_a_kill_cut_off_is_none(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 0}\n{"iteration": 1}\n{"itera')
    assert read_metrics(path) == [{"iteration": 0}, {"iteration": 1}]
    trainer.forget_after(path, 1)
    assert path.read_text() == '{"iteration": 0}\n'
