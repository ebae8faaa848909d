"""What is the paper's protocol is decided from config and counts, not believed (results/protocols.py)."""

import dataclasses
import json

import pytest

from results import assembly, protocols, store
from tests.test_results_record import departing, toy
from tools import write_protocols


def test_the_file_is_that_of_the_catalogue():
    # python -m tools.write_protocols rewrites it
    assert json.loads(protocols.PATH.read_text("utf-8")) == json.loads(json.dumps(write_protocols.current()))


def test_a_record_by_the_protocol_departs_in_nothing():
    assert protocols.departures(toy()) == {}
    assert protocols.departures(departing(**{"SOLVER.MAX_ITER": 3})) == {"SOLVER.MAX_ITER": [24000, 3]}


def shown_in(result, root):
    """Return the names of the tables in which a stored record has figures."""
    store.save(result, root)
    results, problems = store.load(root)
    assert not problems
    return {sheet.name for sheet in assembly.build(results)
            for *_, cell in sheet.facts if cell.origin != "published"}


def test_an_honest_record_stands_in_the_papers_table(tmp_path):
    assert shown_in(toy(), tmp_path) == {"detection", "vicreg_transfer", "repositories", "verdicts"} - {
        "repositories"}  # whose rows are of pretraining: only by name


@pytest.mark.parametrize("forged", [
    dataclasses.replace(departing(**{"SOLVER.MAX_ITER": 30}), scaled={}),
    toy(config={}),
    toy(config={**toy().config, "a_new_trick": True}),
    toy(data={**toy().data, "counts": {"train": 16551, "test": 10}}),
    toy(data={**toy().data, "counts": {**toy().data["counts"], "more": 1}}),
    toy(data={**toy().data, "pixels": "JPEG copies"}),
    toy(version=2),
    toy(task="mnist_linear", metrics={"top1": 99.0}),
    toy(backbone={**toy().backbone, "arch": "resnet101"}),
    toy(scaled={"SOLVER.MAX_ITER": [24000, 30]}, config={**toy().config, "SOLVER.MAX_ITER": 25}),
], ids=["config", "no config", "a new key", "counts", "another split", "copies", "another version",
        "no such task", "another network", "another number"])
def test_a_record_that_states_the_protocol_but_departs_from_it_is_scaled(tmp_path, forged):
    assert shown_in(forged, tmp_path) == {"rehearsal"}
    [result] = store.load(tmp_path)[0]
    assert result.scaled == protocols.departures(forged) and not result.paper_protocol


def test_a_detector_of_another_architecture_has_its_own_keys():
    keys = protocols.protocols()["architectures"]["resnet101"]
    deeper = toy(backbone={**toy().backbone, "arch": "resnet101"}, config=toy().config | keys)
    assert keys == {"MODEL.RESNETS.DEPTH": 101} and protocols.departures(deeper) == {}


def test_a_record_of_a_stem_that_is_not_known_is_scaled_and_breaks_nothing(tmp_path):
    config = protocols.protocols()["tasks"]["folder_knn"]["1"]["config"] | {"image_size": 64}
    backbone = {**toy().backbone, "arch": "resnet18-new"}
    one = toy("folder_knn", {"top1": 50.0}, config=config, backbone=backbone)
    assert protocols.departures(one) == {"image_size": [0, 64]}
    store.save(one, tmp_path)
    [result], problems = store.load(tmp_path)
    assert not problems and not result.paper_protocol
