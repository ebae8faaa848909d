"""Every case of tests/faults/records.py keeps its promise."""

import pytest

from results import make, store
from tests.faults.records import CASES
from tests.test_results_record import toy


@pytest.mark.parametrize("name, change, promise", CASES, ids=[name for name, _, _ in CASES])
def test_record(tmp_path, capsys, record_property, name, change, promise):
    runs, kept = tmp_path / "runs", tmp_path / "record"
    kept.mkdir()
    (kept / "curve.json").write_text('[{"epoch": 1, "loss": 2.0}]')
    for one in (toy(), toy(name="other", sha256="f" * 64, metrics={"AP": 50.0})):
        path = store.save(one, runs)
        store.keep(one, runs, kept)
        if one == toy():
            changed = path
    change(changed, store.files_of(toy(), runs))
    status = make.main(["--runs", str(runs), "--list"])
    results, problems = store.load(runs)
    found = {result.backbone["name"]: result for result in results}
    error = capsys.readouterr().err + "".join(
        f"left out: {line}\n" for result in results for line in store.read_kept(result, runs)[1])
    record_property("seen", error.replace(str(tmp_path), "") or f"{len(results)} records")
    assert found["other"].paper_protocol  # whatever happens beside it
    if promise == "accepted":
        assert status == 0 and found["bt"] == toy()
    elif promise == "scaled":
        assert status == 0 and found["bt"].scaled and not problems
    else:
        assert (status == 1) == bool(problems) and promise in error and "Traceback" not in error
        assert all(line.startswith("left out: ") for line in error.splitlines())
