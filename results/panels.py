"""The report's plots: which figures go into which plot, with titles and captions."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from parallel.attachments import Attachments
from results import plots, webpage
from results.ablations import Ablation
from results.cells import backbone_text
from results.pretraining import Pretraining
from results.record import Result
from results.webpage import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Groups = list[list[Result]]
Files = dict[str, Attachments]  # by the places of the records

CLASSES = 30  # at most, in one plot of bars

# Of a pretraining run: title, label of the y axis, the figures of stats.txt (loss_: all parts of a method's).
PRETRAINING = (
    ("Loss", "loss", ("loss",)),
    ("Parts of the loss", "part", ("loss_",)),
    ("Learning rates", "learning rate", ("lr_weights", "lr_biases")),
    ("Cross-correlation C", "correlation", ("diagonal_mean", "off_diagonal_rms")),
    ("Effective rank of the embeddings", "effective rank", ("effective_rank",)),
    ("Spread of the embeddings", "spread (1: everywhere)", ("embedding_spread",)),
    ("Online kNN and linear probe", "accuracy (%)", ("knn", "online_top1")),
    ("Speed", "images per second", ("images_per_second",)),
)


@dataclass(frozen=True)
class Drawing:
    """Turns plots into html, and, where there is a folder, into PNG and PDF files. names: those drawn."""

    folder: Path | None
    names: list = field(default_factory=list)

    def __call__(self, name: str, plot: "Figure", title: str, text: str) -> str:
        """Return the html of a plot. name: free text that tells it from the others; text: its caption."""
        name = webpage.slug(name)
        self.names.append(name)
        if self.folder:
            plots.save(plot, self.folder, name)
        return webpage.figure_of(plots.svg(plot, name, f"{title}: {text}"), f"{title}.", text)


def pretraining(run: Pretraining, draw: Drawing) -> str:
    """Return the html of one pretraining run: commands, curves, the matrix C and its spectrum."""
    parts = []
    known = dict.fromkeys(name for row in run.rows for name in row)
    parts_of_loss = tuple(name for name in known if name.startswith("loss_") and name != "loss_factor")
    for title, label, wanted in PRETRAINING:
        names = parts_of_loss if wanted == ("loss_",) else wanted
        series = {name: run.series(name) for name in names}
        series = {name: line for name, line in series.items() if any(y is not None for y in line[1])}
        if series:
            parts.append(draw(f"pretraining {run.name} {names[0]}", plots.curves(series, "step", label),
                              title, ends(series)))
    parts += _correlation(run, draw)
    commands = "".join(f"<pre>{escape(command)}</pre>" for command in run.commands)
    return f"<h3>{escape(run.name)}</h3>{commands}\n{webpage.figures(parts)}"


def _correlation(run, draw):
    """Return the plots of C at the end of the last epoch."""
    if not run.correlation:
        return []
    corner, diagonal = run.correlation["corner"], run.correlation["diagonal"]
    values = run.correlation["singular_values"]
    values = values[values > 1e-4 * values[0]]
    when = f"at step {int(run.correlation['step'])}"
    ranked = {"": (range(1, len(diagonal) + 1), sorted(diagonal.tolist(), reverse=True))}
    spectrum = {"": (range(1, len(values) + 1), values.tolist())}
    return [
        draw(f"pretraining {run.name} matrix",
             plots.matrix(corner, "dimension, view 2", "dimension, view 1", "correlation", signed=True),
             "Cross-correlation matrix C", f"{len(corner)} of {len(diagonal)} dimensions, last batch {when}; "
                                           "the aim is 1 on the diagonal and 0 elsewhere"),
        draw(f"pretraining {run.name} diagonal", plots.curves(ranked, "dimension, ranked", "correlation"),
             "Diagonal of C", f"all {len(diagonal)} dimensions {when}, from {diagonal.max():.2f} to "
                              f"{diagonal.min():.2f}, mean {diagonal.mean():.2f}"),
        draw(f"pretraining {run.name} spectrum", plots.curves(spectrum, "rank", "singular value", log=True),
             "Spectrum of the embeddings", f"singular values of a batch {when}, after batch norm; flat "
                                           "where all directions are used"),
    ]


def curves(groups: Groups, files: Files, draw: Drawing) -> str:
    """Return the html of the tasks' curves. Runs of one task and config share a plot, a line each."""
    tasks: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for group in groups:
        tasks[group[0].task, group[0].config_hash] += [run for run in group if files[run.place].curve]
    html = ""
    for (task, hash_), runs in tasks.items():
        if not runs:
            continue
        axis = files[runs[0].place].axis
        parts = []
        for title, label, choose in (("Loss", "loss", _losses), ("Learning rate", "learning rate", _rates),
                                     ("Result", f"{next(iter(runs[0].metrics))} (%)", _results)):
            series = _series(runs, files, axis, choose)
            if series:
                parts.append(draw(f"{task} {hash_} {title}", plots.curves(series, axis, label), title,
                                  ends(series)))
        if parts:
            data = runs[0].data["name"]
            names = {backbone_text(run) for run in runs}
            whose = f", {names.pop()}" if len(names) == 1 else ""  # of several, the legend tells
            html += f"<h3>{escape(f'{task}: {data}{whose}, config {hash_}')}</h3>\n{webpage.figures(parts)}"
    return html


def _series(runs, files, axis, choose):
    """Return {label: (x, y)} of the figures that `choose` picks from each run's names."""
    series = {}
    seeds = len({run.seed for run in runs}) > 1
    for run in runs:
        rows = [row for row in files[run.place].curve if axis in row]
        names = choose(dict.fromkeys(name for row in rows for name in row if name != axis), run)
        for name in names:
            kept = [row for row in rows if name in row]
            label = " ".join([backbone_text(run), *([name] if len(names) > 1 else []),
                              *([f"seed {run.seed}"] if seeds else [])])
            if any(row[name] is not None for row in kept):
                series[label] = [row[axis] for row in kept], [row[name] for row in kept]
    return series


def _losses(names, run):
    """The total loss; where there is none, all its parts."""
    whole = [name for name in ("loss", "total_loss", "train_loss") if name in names]
    return whole[:1] or [name for name in names if "loss" in name]


def _rates(names, run):
    return [name for name in names if name.startswith("lr") or "learning_rate" in name]


def _results(names, run):
    """The main metric; a sweep's curve has that of its best head at each epoch."""
    main = next(iter(run.metrics))
    return [name for name in names if name in (main, f"val_{main}", main.removeprefix("swept_"))]


def classes(groups: Groups, files: Files, draw: Drawing) -> str:
    """Return the html of figures by class, confusions and pictures: of the first seed, to stay small."""
    html = ""
    for group in groups:
        run, kept = group[0], files[group[0].place]
        name = f"{run.task}, {backbone_text(run)}, seed {run.seed}"
        parts = [*_bars(run, kept, draw)]
        if kept.confusion:
            names, counts = kept.confusion["classes"], kept.confusion["matrix"]
            right, total = sum(row[number] for number, row in enumerate(counts)), sum(map(sum, counts))
            parts.append(draw(f"{_place(run)} confusion", plots.confusion(names, counts), "Confusion",
                              f"{len(names)} classes, {100 * right / max(1, total):.1f} % on the diagonal"))
        if kept.picture:
            picture = webpage.photograph(kept.picture, f"Images with what was detected in them: {name}")
            parts.append(webpage.figure_of(picture, "Pictures.",
                                            "left: ground truth, right: strongest detections"))
        if parts:
            html += f"<h3>{escape(name)}</h3>\n{webpage.figures(parts)}"
    return html


def _bars(run, kept, draw):
    """Yield the plot of the main metric by class; of many classes the best and the worst."""
    found = {metric: None for metrics in kept.per_class.values() for metric in metrics}
    metric = next((metric for metric in run.metrics if metric in found), next(iter(found), None))
    values = {label: metrics.get(metric) for label, metrics in kept.per_class.items()}
    values = {label: value for label, value in values.items() if value is not None}
    if not values:
        return
    ranked = sorted(values, key=values.get)
    shown = ranked if len(ranked) <= CLASSES else ranked[:CLASSES // 2] + ranked[-CLASSES // 2:]
    rest = "" if len(shown) == len(ranked) else f"the {CLASSES // 2} worst and the {CLASSES // 2} best of "
    bars = plots.bars({label: values[label] for label in shown}, f"{metric} (%)")
    yield draw(f"{_place(run)} classes", bars, f"{metric} by class",
               f"{rest}{len(ranked)} classes, from {values[ranked[0]]:.1f} ({ranked[0]}) to "
               f"{values[ranked[-1]]:.1f} ({ranked[-1]})")


def _place(run):
    return run.place.removesuffix(".json")


def ends(series: plots.Series) -> str:
    """Return lines in words: the first and the last figure of each."""
    texts = []
    for name, (_, y) in series.items():
        known = [value for value in y if value is not None]
        ends = f"from {known[0]:.4g} to {known[-1]:.4g}" if len(known) > 1 else f"{known[0]:.4g}"
        texts.append(f"{name} {ends}" if len(series) > 1 else ends)
    return "; ".join(texts)


def online(runs: Sequence[Pretraining], draw: Drawing) -> str:
    """Return the html of the accuracies that runs of pretraining were watched by, one plot of all."""
    axes = {"knn": "kNN accuracy (%)", "online_top1": "linear, online (%)"}
    curves = {axis: {run.name: run.by_epoch(name) for run in runs if run.by_epoch(name)[0]}
              for name, axis in axes.items()}
    curves = {axis: lines for axis, lines in curves.items() if lines}
    return webpage.figures([draw("pretraining online", plots.stacked(curves, "epochs"), "While pretraining",
                                 "from the untrained network on")]) if curves else ""


def ablation(one: Ablation, draw: Drawing) -> str:
    """Return the html of an ablation's plots: top-1 over the varied number, kNN and rank over epochs."""
    declared, parts = one.declared, []
    lines = {}
    for label, cells in (("ours", [(row.number, row.cell) for row in one.rows]),
                         ("published, ImageNet", [(row.number, row.published) for row in one.rows])):
        known = sorted((number, cell.mean) for number, cell in cells if number is not None and cell)
        if known:
            lines[label] = ([number for number, _ in known], [mean for _, mean in known])
    if lines:
        what = f"{declared['task']} after pretraining, one seed" + (
            "" if declared["scale"] == "paper" else f"; scaled: {declared['scale']}")
        parts.append(draw(f"ablation {one.name} top1", plots.sweep(
            lines, declared["varied"], "top-1 accuracy (%)", declared["log"]), declared["title"], what))
    curves: dict[str, dict] = {}
    for name, axis in (("knn", "kNN accuracy (%)"), ("effective_rank", "effective rank")):
        lines_of = {row.label: row.run.by_epoch(name) for row in one.rows if row.run.by_epoch(name)[0]}
        start = one.at_start()
        if name == "knn" and start is not None:
            last = max(max(epochs) for epochs, _ in lines_of.values())
            lines_of["random weights (median)"] = ([0, last], [start, start])
        if lines_of:
            curves[axis] = lines_of
    if curves:
        parts.append(draw(f"ablation {one.name} epochs", plots.stacked(curves, "epochs", ("effective rank",)),
                          f"{declared['title']}: while pretraining",
                          f"{len(one.rows)} runs; effective rank of the embeddings of a batch"))
    return f"<h3>{escape(declared['title'])}</h3>\n{webpage.figures(parts)}" if parts else ""
