"""The file that a run resumes from: written whole, read with suspicion, compared before it is used."""
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from parallel import checkpoints


class Canary:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def good(path):
    checkpoints.write({"epoch": 1, "weights": torch.arange(64.0)}, path)
    return path


def zeroed(path):
    content = bytearray(good(path).read_bytes())
    start = content.index(torch.arange(64.0).numpy().tobytes())
    content[start:start + 64] = bytes(64)
    path.write_bytes(content)


def elsewhere(path):
    (path.parent.parent / "other").mkdir()
    path.symlink_to(good(path.parent.parent / "other" / "file.pth"))


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10 ** 8))


def doubled(path):
    """Lists of two that are one, 60 deep: 2 ** 60 values in a file of a few thousand bytes."""
    value = [1]
    for _ in range(60):
        value = [value, value]
    torch.save({"epoch": value, "weights": {}}, path)


@pytest.mark.parametrize("make, message", [
    (lambda path: None, "expected a file, found none"),
    (lambda path: path.mkdir(), "expected a file, found a folder or device"),
    (lambda path: os.mkfifo(path), "expected a file, found a folder or device"),
    (lambda path: path.symlink_to("/dev/zero"), "expected a file, found a folder or device"),
    (lambda path: path.symlink_to("nowhere"), "expected a file, found none"),
    (elsewhere, "expected a file of its folder, found a link to .*other/file.pth"),
    (lambda path: path.write_bytes(b""), "cannot be read as a checkpoint"),
    (lambda path: path.write_text("hello"), "cannot be read as a checkpoint"),
    (lambda path: path.write_bytes(good(path).read_bytes()[:-200]), "cannot be read as a checkpoint"),
    (zeroed, "is damaged: its part .*data/0 does not fit its checksum"),
    (lambda path: torch.save({"epoch": Canary(path.parent / "canary")}, path), "cannot be read as"),
    (lambda path: path.write_bytes(pickle.dumps(Canary(path.parent / "canary"))), "cannot be read as"),
    (bomb, "cannot be read as a checkpoint .it unpacks to more than it has"),
    (doubled, "cannot be read as a checkpoint .it holds more than 1000000 values"),
    (lambda path: torch.save([1, 2], path), "expected a checkpoint of .*, found one without any names"),
    (lambda path: torch.save({"epoch": 1}, path), "expected a checkpoint of .*, found one without weights"),
], ids=["missing", "folder", "pipe", "device", "dangling", "link out", "empty", "text", "cut off", "zeroed",
        "code", "pickle", "bomb", "doubled", "list", "names"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, make, message):
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "file.pth"
    make(path)
    with pytest.raises(ValueError, match=f"run/file.pth: {message}") as caught:
        checkpoints.read(path, ("epoch", "weights"))
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "canary").exists()


def test_a_link_within_the_folder_is_followed(tmp_path):
    good(tmp_path / "file-7.pth")
    (tmp_path / "file.pth").symlink_to("file-7.pth")
    assert checkpoints.read(tmp_path / "file.pth", ("epoch",))["epoch"] == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_draft_of_a_killed_one(tmp_path):
    path = good(tmp_path / "file.pth")
    (tmp_path / ".file.0123456789abcdef.part.pth").touch()
    with pytest.raises(Exception):
        checkpoints.write({"a": lambda: None}, path)  # cannot be stored
    assert checkpoints.read(path, ("epoch",))["epoch"] == 1 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("found, message", [
    ({"a": torch.zeros(2), "b": [1, {"c": 2}]}, ""),
    ({"b": [1, {"c": 2}]}, "state: expected a, found none"),
    ({"a": torch.zeros(2), "b": [1, {"c": 2}], "d": 1}, "state: found d, which is not expected"),
    ({"a": torch.zeros(2, 1), "b": [1, {"c": 2}]}, "state.a: expected float32 (2,), found float32 (2, 1)"),
    ({"a": torch.zeros(2).double(), "b": [1, {"c": 2}]},
     "state.a: expected float32 (2,), found float64 (2,)"),
    ({"a": torch.zeros(2).to_sparse(), "b": [1, {"c": 2}]},
     "state.a: expected float32 (2,), found sparse float32 (2,)"),
    ({"a": 1, "b": [1, {"c": 2}]}, "state.a: expected float32 (2,), found int"),
    ({"a": torch.zeros(2), "b": [1, {"c": 2.0}]}, "state.b.1.c: expected int, found float"),
    ({"a": torch.zeros(2), "b": [1]}, "state.b: expected 2 entries, found 1"),
    ([], "state: expected dict, found list"),
    (None, "state: expected dict, found NoneType"),
])
def test_states_are_compared_by_name_kind_shape_and_type(found, message):
    assert checkpoints.unlike(found, {"a": torch.ones(2), "b": [0, {"c": 0}]}, "state") == message


def trained(steps=1, **changes):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    options = dict(lr=0.1, momentum=0.9, weight_decay=0.0) | changes
    optimizer = torch.optim.SGD(network.parameters(), **options)
    for _ in range(steps):
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return optimizer


def without(state, *path):
    inner = state
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return state


@pytest.mark.parametrize("found, message", [
    (lambda: trained().state_dict(), None),
    (lambda: trained(steps=0).state_dict(), "optimizer.state: expected 0, found none"),
    (lambda: trained(lr=0.2).state_dict(), None),  # the schedule's
    (lambda: without(trained().state_dict(), "param_groups", 0, "nesterov"), None),  # of an older torch
    (lambda: trained(weight_decay=0.1).state_dict(), "group 0 was made with weight_decay 0.1, now 0.0"),
    (lambda: without(trained().state_dict(), "state", 1), "optimizer.state: expected 1, found none"),
    (lambda: without(trained().state_dict(), "state", 0, "momentum_buffer"), "expected momentum_buffer, f"),
    (lambda: without(trained().state_dict(), "param_groups", 0, "params"), None),
    (lambda: without(trained().state_dict(), "param_groups", 0), "param_groups: expected 1 entries, found 0"),
    (lambda: without(trained().state_dict(), "param_groups"), "optimizer: expected param_groups, found none"),
    (lambda: trained().state_dict() | {"param_groups": [None]}, "groups.0: expected dict, found NoneType"),
    (lambda: 7, "optimizer: expected dict, found int"),
])
def test_an_optimiser_s_state_is_that_of_all_its_parameters(found, message):
    if message is None:
        optimizer = trained(steps=0)
        optimizer.load_state_dict(checkpoints.optimizer_state(found(), optimizer, ("momentum_buffer",)))
        return
    with pytest.raises(ValueError, match=message):
        checkpoints.optimizer_state(found(), trained(), ("momentum_buffer",))


def test_an_optimiser_of_a_run_without_a_step_has_no_state():
    found = trained(steps=0).state_dict()
    assert checkpoints.optimizer_state(found, trained(), ("momentum_buffer",), fresh=True) == found
    plain = trained(momentum=0.0)  # keeps nothing of its steps
    assert checkpoints.optimizer_state(plain.state_dict(), plain, ()) == plain.state_dict()


def test_differences_are_named():
    old, new = {"decay": 1e-6, "rate": 0.1}, {"decay": 1.5e-6, "rate": 0.1, "seed": 1}
    assert checkpoints.difference(old, new) == "decay 1e-06, now 1.5e-06; seed absent, now 1"
    assert checkpoints.difference(old, old) == ""
