"""Which run a folder belongs to: what binds it to its data."""
import json

import pytest

from transfer import workspace

IDENTITY = {"task": "voc_det", "config": {"rate": 1}, "data": {"fingerprint": "a"}, "seed": 0,
            workspace.TRAINING: "t"}


def run_in(folder, **changes):
    """Make a folder that holds a run, whose identity has changes; None takes a key out."""
    folder.mkdir(parents=True)
    found = {key: value for key, value in {**IDENTITY, **changes}.items() if value is not None}
    (folder / workspace.MARK).write_text(json.dumps(found))
    (folder / "last_checkpoint").touch()
    return folder


@pytest.mark.parametrize("changes, continues", [
    ({}, True),
    ({"data": {"fingerprint": "b"}}, True),                        # the test pictures were repaired
    ({workspace.TRAINING: "u"}, False),
    ({workspace.TRAINING: None}, True),                            # written before that was known
    ({workspace.TRAINING: None, "data": {"fingerprint": "b"}}, False),
    ({"seed": 1}, False),
], ids=str)
def test_a_run_is_bound_to_what_it_was_trained_on(tmp_path, changes, continues):
    out = run_in(tmp_path / "out", **changes)
    if continues:
        assert workspace.claim(out, IDENTITY, resume=True, rerun=False)
        assert IDENTITY.items() <= json.loads((out / workspace.MARK).read_text()).items()
    else:
        with pytest.raises(ValueError, match="is a run with another (training data|data|seed)"):
            workspace.claim(out, IDENTITY, resume=True, rerun=False)


def test_a_task_without_training_data_of_its_own_is_bound_to_all_of_it(tmp_path):
    identity = {key: value for key, value in IDENTITY.items() if key != workspace.TRAINING}
    out = run_in(tmp_path / "out", data={"fingerprint": "b"}, **{workspace.TRAINING: None})
    with pytest.raises(ValueError, match="is a run with another data"):
        workspace.claim(out, identity, resume=True, rerun=False)


def test_a_run_is_found_after_its_test_data_has_changed(tmp_path):
    """The name of its folder follows from all data, as that of its record."""
    wanted, other = tmp_path / "new-s0", {"data": {"fingerprint": "b"}}
    assert workspace.continued(wanted, IDENTITY) == wanted
    run_in(tmp_path / "seed-s1", seed=1)
    run_in(tmp_path / "trained-s0", **{workspace.TRAINING: "u"})
    run_in(tmp_path / "damaged-s0").joinpath(workspace.MARK).write_text("{")
    assert workspace.continued(wanted, IDENTITY) == wanted
    before = run_in(tmp_path / "old-s0", **other)
    assert workspace.continued(wanted, IDENTITY) == before
    run_in(tmp_path / "older-s0", **other)
    with pytest.raises(ValueError, match="old-s0, .*older-s0; name one with --output"):
        workspace.continued(wanted, IDENTITY)
    run_in(wanted)
    assert workspace.continued(wanted, IDENTITY) == wanted
