"""What a run leaves for people and for its record: curves, bars, detections beside the ground truth."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from transfer.detection import curves, pictures, record_files
from transfer.detection.sets import KINDS

RED, GREY = (255, 0, 0), (90, 90, 90)


def write_metrics(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_metrics_of_one_iteration_are_one_row_in_order(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", {"iteration": 19, "total_loss": 2.0, "lr": 0.1},
                         {"iteration": 39, "total_loss": 1.0}, {"iteration": 39, "bbox/AP": 5.0},
                         {"iteration": 19, "bbox/AP": 4.0})
    assert curves.read_metrics(path) == [{"iteration": 19, "total_loss": 2.0, "lr": 0.1, "bbox/AP": 4.0},
                                       {"iteration": 39, "total_loss": 1.0, "bbox/AP": 5.0}]
    assert curves.read_metrics(tmp_path / "none.json") == []


@pytest.mark.parametrize("kind, names", [("voc", ["AP", "AP50"]), ("coco", ["box_AP", "box_AP50"])])
def test_curve_has_losses_rate_and_precision_under_the_record_s_names(kind, names):
    rows = [{"iteration": 0, "time": 1.0}, {"iteration": 9, "total_loss": 3.0, "loss_cls": 1.0, "lr": 0.1,
                                            "bbox/AP": 7.0, "bbox/AP50": 9.0, "bbox/APs": 1.0, "time": 2.0}]
    assert curves.curve(rows, KINDS[kind].Part.prefixes) == [
        {"iteration": 9, "total_loss": 3.0, "loss_cls": 1.0, "lr": 0.1, names[0]: 7.0, names[1]: 9.0}]


def test_a_long_curve_is_thinned_but_keeps_its_ends_and_evaluations():
    rows = [{"iteration": n, "total_loss": 1 / (n + 1)} for n in range(0, 90_000, 20)]
    for row in rows[::300]:
        row["segm/AP"] = 1.0
    found = curves.curve(rows, KINDS["coco"].Part.prefixes)
    iterations = [row["iteration"] for row in found]
    assert iterations == sorted(set(iterations)) and len(found) == curves.ROWS
    assert iterations[0] == 0 and iterations[-1] == rows[-1]["iteration"]
    assert sum("mask_AP" in row for row in found) == 15
    assert max(np.diff(iterations)) < 3 * 90_000 / curves.ROWS


def test_small_jpeg_is_small_though_the_picture_is_noise():
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    data = record_files.small_jpeg(Image.fromarray(noise), most=60_000)
    assert len(data) <= 60_000
    small = Image.open(io.BytesIO(data))
    assert small.width / small.height == pytest.approx(900 / 700, abs=0.02)


def test_a_box_and_its_mask_are_drawn_where_they_are():
    image = Image.new("RGB", (pictures.WIDTH // 2, 100), GREY)  # drawn at twice the size
    mask = np.zeros((100, pictures.WIDTH // 2), bool)
    mask[40:60, 40:60] = True
    panel = pictures.annotated(image, [(0, "cat 90 %", [20, 30, 80, 70], mask)])
    assert panel.size == (pictures.WIDTH, 200)
    blue = tuple(int(pictures.COLOURS[0][place:place + 2], 16) for place in (1, 3, 5))
    assert panel.getpixel((40, 100)) == panel.getpixel((100, 140)) == blue    # left and lower side
    assert panel.getpixel((60, 120)) == panel.getpixel((300, 150)) == GREY    # inside the box, outside it
    assert panel.getpixel((100, 100)) not in (GREY, blue)  # the mask lets the image through
    polygon = pictures.annotated(image, [(0, "cat", [20, 30, 80, 70], [[40, 40, 60, 40, 60, 60, 40, 60]])])
    assert polygon.getpixel((100, 100)) == panel.getpixel((100, 100))


def test_panels_stand_side_by_side():
    left, right = Image.new("RGB", (pictures.WIDTH, 50), RED), Image.new("RGB", (pictures.WIDTH, 40), GREY)
    sheet = pictures.beside([(left, right), (right, left)])
    assert sheet.getpixel((5, 25)) == RED and sheet.getpixel((sheet.width - 5, 25)) == GREY
    assert sheet.getpixel((5, 85)) == GREY and sheet.getpixel((sheet.width - 5, 85)) == RED


def drawn(monkeypatch):
    """Axes of every figure that is saved from now on."""
    from matplotlib.figure import Figure

    seen, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *words, **options: (
        seen.extend(figure.axes), save(figure, *words, **options)))
    return seen


def test_curves_and_bars_show_the_numbers_with_units(tmp_path, monkeypatch):
    seen = drawn(monkeypatch)
    rows = [{"iteration": n, "total_loss": 2.0 - n / 10, "loss_cls": 1.0, "lr": 1.0, "AP": float(n)}
            for n in range(5)]
    pictures.losses(rows, tmp_path / "losses.png")
    pictures.precisions(rows, tmp_path / "precision.png")
    lines = [{line.get_label(): list(line.get_ydata()) for line in axes.lines} for axes in seen]
    assert lines == [{"loss_cls": [1.0] * 5, "total_loss": [2.0, 1.9, 1.8, 1.7, 1.6]},
                     {"AP": [0.0, 1.0, 2.0, 3.0, 4.0]}]
    assert seen[0].get_yscale() == "log" and "%" in seen[1].get_ylabel()
    pictures.bars({"cat": {"box_AP": 20.0, "box_AP50": 30.0, "mask_AP": 9.0, "mask_AP50": 10.0},
                   "bus": {"box_AP": 25.0, "box_AP50": 26.0, "mask_AP": 1.0, "mask_AP50": 2.0}},
                  tmp_path / "per_class.png")
    box, mask = seen[2:]
    assert [text.get_text() for text in box.get_yticklabels()] == ["cat", "bus"]  # the best one on top
    assert [text.get_text() for text in mask.get_yticklabels()] == ["bus", "cat"]
    assert [bar.get_width() for bar in box.patches] == [30.0, 26.0, 20.0, 25.0]
    for name in ("losses.png", "precision.png", "per_class.png"):
        assert 1000 < (tmp_path / name).stat().st_size < 150_000


def test_nothing_is_drawn_of_nothing(tmp_path):
    pictures.losses([], tmp_path / "losses.png")
    pictures.precisions([{"iteration": 3, "AP": 1.0}], tmp_path / "precision.png")
    assert not list(tmp_path.iterdir())


def test_kept_files_of_a_run(tmp_path):
    write_metrics(tmp_path / "metrics.json", {"iteration": 0, "total_loss": 2.0},
                  {"iteration": 1, "bbox/AP": 4.0})
    (tmp_path / "inference").mkdir()
    per_class = {"cat": {"AP": 4.0, "AP50": 8.0, "AP75": 0.0}}
    (tmp_path / "inference" / "per_class.json").write_text(json.dumps(per_class))
    record_files.write(tmp_path, KINDS["voc"].Part.prefixes, Image.new("RGB", (400, 300), RED))
    record = tmp_path / "record"
    assert json.loads((record / "curve.json").read_text()) == [
        {"iteration": 0, "total_loss": 2.0}, {"iteration": 1, "AP": 4.0}]
    assert json.loads((record / "per_class.json").read_text()) == per_class
    assert sorted(path.name for path in record.iterdir()) == ["curve.json", "per_class.json", "picture.jpg"]
    for path in (record / "picture.jpg", tmp_path / "detections.jpg"):
        assert Image.open(path).size == (400, 300)
    assert (tmp_path / "per_class.png").exists()
