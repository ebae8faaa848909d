"""Pictures of a run: the strongest detections beside the ground truth, and the loss curves."""

import json

import numpy as np
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image, ImageDraw, ImageOps

# Okabe and Ito's colours without yellow and black: told apart by colour-blind readers too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MASK_OPACITY = 90  # of 255
WIDTH = 480        # pixels of one panel
IMAGES = 4         # evenly spaced through the test set: not the best ones
STRONGEST = 8      # detections drawn on each image


@torch.no_grad()
def detections(model, cfg, path):
    """Run the model on IMAGES test images; save ground truth and strongest detections side by side."""
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
        rows.append((annotated(image, _truth(record, classes)), annotated(image, drawn)))
    model.train(training)
    beside(rows, path)


def _truth(record, classes):
    items = []
    for item in record["annotations"]:
        box = BoxMode.convert(item["bbox"], item["bbox_mode"], BoxMode.XYXY_ABS)
        polygons = item.get("segmentation")
        caption = classes[item["category_id"]] + (" (crowd)" if item.get("iscrowd") else "")
        items.append((item["category_id"], caption, box, polygons if isinstance(polygons, list) else None))
    return items


def annotated(image, items):
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
        draw.text(at, caption, fill="white")
    return panel.convert("RGB")


def _mask_image(mask, size, panel_size, scale):
    if isinstance(mask, np.ndarray):
        return Image.fromarray(mask.astype(np.uint8) * 255).resize(panel_size)
    shape = Image.new("L", panel_size)
    for polygon in mask:
        ImageDraw.Draw(shape).polygon([float(value) * scale for value in polygon], fill=255)
    return shape


def beside(rows, path):
    """Save rows [(ground truth panel, detections panel)] as one picture with headings."""
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
    sheet.save(path)


def curves(metrics, path):
    """Draw each loss of a metrics.json (JSON lines, "iteration" and "*loss*" keys) on a logarithmic axis.

    Nothing is drawn where there is no loss to draw.
    """
    if not metrics.exists():
        return
    from matplotlib.figure import Figure  # half a second, only here

    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    names = sorted({name for line in lines for name in line if "loss" in name})
    if not names:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(names):
        points = [(line["iteration"], line[name]) for line in lines if name in line]
        style = {"color": "black", "linewidth": 2} if name == "total_loss" else {"color": COLOURS[number % 6]}
        axes.plot(*zip(*points), label=name, marker="." if len(points) < 30 else None, **style)
    axes.set(xlabel="iteration", ylabel="loss (median of 20 iterations)", yscale="log")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
