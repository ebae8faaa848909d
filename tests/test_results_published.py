"""What the published figures say besides their value (results/published.json, published.py, catalogue.py)."""

import csv

import pytest

from results import assembly, render
from results.published import read_published

SHEETS = {sheet.name: sheet for sheet in assembly.build([])}


@pytest.mark.parametrize("table, row, task, metric, note", [
    ("linear", "SwAV (w/o multi-crop)", "imagenet_linear", "top1", "70.1 after 400 epochs"),
    ("linear", "SimCLR", "imagenet_linear", "top1", "68.8 after 1000 epochs"),
    ("linear", "MoCo v2", "imagenet_linear", "top1", "67.5 ± 0.1 over five runs"),
    ("repositories", "PIRL, VISSL, 200 epochs, linear head", "imagenet_linear", "top1", "62.55"),
    ("semi", "Barlow Twins", "imagenet_semi1", "top5", "79.9"),
    ("semi", "Barlow Twins", "imagenet_semi10", "top1", "68.9"),
    ("semi", "Barlow Twins", "imagenet_semi10", "top5", "89.0"),
    ("transfer", "Barlow Twins", "voc07_svm", "mAP", "86.8"),
    ("detection", "MoCo v2", "coco_det", "box_AP", "38.5"),
    ("detection", "MoCo v2", "coco_det", "mask_AP", "33.7"),
    ("vicreg_transfer", "VICReg", "voc_det", "AP50", "79.1"),
    ("knn", "Barlow Twins", "imagenet_knn", "top1_k20", "63.8 after 300 epochs"),
    ("knn", "Barlow Twins", "imagenet_knn", "top1_k200", "61.9 after 300 epochs")])
def test_a_figure_that_sources_do_not_agree_on_has_a_footnote(table, row, task, metric, note):
    (cell,) = [cell for *place, cell in SHEETS[table].facts if place == [row, task, metric]]
    assert note in cell.note and cell.note in render.markdown(SHEETS[table])


@pytest.mark.parametrize("table, words", [
    ("semi", ["0.005 and cosine", "0.002", "12 and 16"]), ("transfer", ["three drops", "two drops"]),
    ("detection", ["SimSiam"]), ("vicreg_imagenet", ["not VICReg's own"]),
    ("vicreg_transfer", ["not comparable with Table 4", "not VICReg's own"])])
def test_a_recipe_that_differs_from_the_printed_one_is_said_below_the_table(table, words):
    assert all(word in " ".join(SHEETS[table].notes) for word in words)


def test_settings_of_published_figures_are_in_the_csv():
    rows = {row["row"]: row for row in csv.DictReader(render.tidy_csv(SHEETS["batch_size"]).splitlines())}
    assert rows["Barlow Twins, batch size 256"]["settings"] == "batch_size 256, base_lr 0.4"
    assert rows["Barlow Twins, best, batch size 1024"]["settings"] == "batch_size 1024"


def test_presets_of_published_figures_exist_and_have_their_epochs_and_batch():
    from pretrain.methods import recipe

    links = [(preset, entry) for entry in read_published() for preset in entry.get("presets", ())]
    assert len(links) > 50 and len({preset for preset, _ in links}) == len(links)
    for preset, entry in links:
        method, name = preset.split("/")
        one = recipe(name, method=method)
        assert entry["metric"] == "top1" and entry["task"].endswith(("_linear", "_online"))
        assert entry["epochs"] in (None, one.epochs), preset
        assert entry["settings"].get("batch_size", one.batch_size) == one.batch_size, preset
        assert entry["backbone"].replace("-", "").lower() == one.arch, preset
