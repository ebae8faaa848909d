"""Pictures of a run: strongest detections beside the ground truth, curves, bars of classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw, ImageOps
from torch import nn

# Okabe and Ito's colours without yellow and black: told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MASK_OPACITY = 90  # of 255
WIDTH = 480        # pixels of one panel
IMAGES = 4         # evenly spaced through the test set: not the best ones
STRONGEST = 8      # detections drawn on each image


@torch.no_grad()
def detections(model: nn.Module, cfg: CfgNode) -> Image.Image:
    """Run the model on IMAGES test images; return ground truth and strongest detections side by side."""
    name = cfg.DATASETS.TEST[0]
    images, classes = DatasetCatalog.get(name), MetadataCatalog.get(name).thing_classes
    mapper, rows, training = DatasetMapper(cfg, is_train=False), [], model.training
    model.eval()
    for number in np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int)):
        record = images[number]
        image = ImageOps.exif_transpose(Image.open(record["file_name"]))
        found = model([mapper(record)])[0]["instances"].to("cpu")[:STRONGEST]  # Detectron2 sorts by score
        masks = found.pred_masks.numpy() if found.has("pred_masks") else [None] * len(found)
        boxes = found.pred_boxes.tensor.tolist()
        drawn = [(kind, f"{classes[kind]} {100 * score:.0f} %", box, mask) for kind, score, box, mask in
                 zip(found.pred_classes.tolist(), found.scores.tolist(), boxes, masks)]
        rows.append((annotated(image, _truth(record, classes)), annotated(image, drawn[::-1])))  # best on top
    model.train(training)
    return beside(rows)


def _truth(record, classes):
    items = []
    for item in record["annotations"]:
        box = BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
        polygons = item.get("segmentation")
        caption = classes[item["category_id"]] + (" (crowd)" if item.get("iscrowd") else "")
        items.append((item["category_id"], caption, box, polygons if isinstance(polygons, list) else None))
    return items


def annotated(image: Image.Image, items: Sequence[
        tuple[int, str, Sequence[float], np.ndarray | list[list[float]] | None]]) -> Image.Image:
    """Return a copy of a PIL image, WIDTH wide, with items drawn.

    items: [(class number, caption, box [x0, y0, x1, y1] in pixels of `image`, mask or None)]; a mask is a
    bool array (H, W) or a list of polygons [x0, y0, x1, y1, ...].
    """
    scale = WIDTH / image.width
    panel = image.convert("RGB").resize((WIDTH, max(1, round(image.height * scale)))).convert("RGBA")
    for number, caption, box, mask in items:
        colour = COLOURS[number % len(COLOURS)]
        if mask is not None:
            shape = _mask_image(mask, image.size, panel.size, scale)
            layer = Image.new("RGBA", panel.size, colour)
            layer.putalpha(shape.point(lambda value: MASK_OPACITY if value else 0))
            panel = Image.alpha_composite(panel, layer)
        draw = ImageDraw.Draw(panel)
        x0, y0, x1, y1 = (float(value) * scale for value in box)
        draw.rectangle([x0, y0, max(x0, x1), max(y0, y1)], outline=colour, width=2)
        at = (max(0.0, x0) + 2, max(0.0, y0 - 12))
        draw.rectangle(draw.textbbox(at, caption), fill=colour)
        draw.text(at, caption, fill="white" if number % len(COLOURS) < 3 else "black")  # on the light ones
    return panel.convert("RGB")


def _mask_image(mask, size, panel_size, scale):
    if isinstance(mask, np.ndarray):
        return Image.fromarray(mask.astype(np.uint8) * 255).resize(panel_size)
    shape = Image.new("L", panel_size)
    for polygon in mask:
        ImageDraw.Draw(shape).polygon([float(value) * scale for value in polygon], fill=255)
    return shape


def beside(rows: Sequence[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """Return rows [(ground truth panel, detections panel)] as one picture with headings."""
    gap, head = 8, 20
    height = head + sum(max(left.height, right.height) + gap for left, right in rows)
    sheet = Image.new("RGB", (2 * WIDTH + gap, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((4, 4), "ground truth", fill="black")
    draw.text((WIDTH + gap + 4, 4), "strongest detections", fill="black")
    top = head
    for left, right in rows:
        sheet.paste(left, (0, top))
        sheet.paste(right, (WIDTH + gap, top))
        top += max(left.height, right.height) + gap
    return sheet


def losses(rows: list[dict], path: Path) -> None:
    """Draw each loss of the rows of curves.read_metrics on a logarithmic axis; nothing where none is."""
    names = sorted({name for row in rows for name in row if "loss" in name})
    if names:
        _draw({name: [(row["iteration"], row[name]) for row in rows if name in row] for name in names},
              path, ylabel="loss (median of 20 iterations)", yscale="log")


def precisions(rows: list[dict], path: Path) -> None:
    """Draw average precision over iterations (rows of curves.curve) where it was measured twice or more."""
    rows = [row for row in rows if any(name.endswith("AP") for name in row)]
    names = [name for name in (rows[0] if rows else ()) if "AP" in name]
    if len(rows) > 1:
        _draw({name: [(row["iteration"], row[name]) for row in rows if name in row] for name in names},
              path, ylabel="average precision on the test set (%)", ylim=(0, None))


def _draw(lines, path, **axis):
    """Save lines {name: [(iteration, value), ...]} as a picture; colours and dashes tell them apart."""
    from matplotlib.figure import Figure  # half a second, only here

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(lines.items()):
        style = {"color": COLOURS[number % 6], "linestyle": ("-", "--", ":")[number % 3]}
        if name == "total_loss":
            style = {"color": "black", "linewidth": 2}
        axes.plot(*zip(*points), label=name, marker="." if len(points) < 30 else None, **style)
    axes.set(xlabel="iteration", **axis)
    axes.grid(alpha=0.2)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)


def bars(per_class: dict[str, dict[str, float]], path: Path) -> None:
    """Draw AP50, and AP in front of it, of each class, the best one first.

    per_class: {class: {"AP", "AP50", ...}}, or the same with box_ and mask_ before the names: one panel each.
    """
    from matplotlib.figure import Figure

    prefixes = [name.removesuffix("AP") for name in next(iter(per_class.values())) if name.endswith("AP")]
    figure = Figure(figsize=(5 * len(prefixes), 1 + 0.22 * len(per_class)), layout="constrained")
    for axes, prefix in zip(figure.subplots(1, len(prefixes), squeeze=False)[0], prefixes):
        ranked = sorted((row[f"{prefix}AP"], row[f"{prefix}AP50"], name) for name, row in per_class.items())
        whole, half, names = zip(*ranked)
        axes.barh(range(len(ranked)), half, height=0.8, color=COLOURS[5], label="AP50")
        axes.barh(range(len(ranked)), whole, height=0.4, color=COLOURS[0], label="AP")
        axes.set_yticks(range(len(ranked)), names, fontsize=8)
        axes.set(xlabel=f"{prefix.replace('_', ' ')}average precision (%)", xlim=(0, 100),
                 ylim=(-0.6, len(ranked) - 0.4))
        axes.grid(axis="x", alpha=0.2)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8)
    figure.savefig(path, dpi=100)
