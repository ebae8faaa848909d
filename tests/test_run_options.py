"""transfer/run.py's --show-config and --cache, without a run."""
from pathlib import Path

import pytest

from transfer import execution
from transfer import run as command


def test_show_config_prints_values_and_what_they_replace(capsys):
    words = ["--task", "voc07_svm", "--show-config", "preset", "vissl", "folds", "5"]
    assert command.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"resize = squash   (default: crop)", "folds = 5   (default: 3)", "image_size = 224"} <= set(lines)
    assert sum("(default: " in line for line in lines) == 4  # resize, pooling, folds, preset


def test_show_config_of_smoke_gives_way_to_the_users_pairs(capsys):
    assert command.main(["--task", "imagenet_knn", "--smoke", "--show-config", "image_size", "96"]) == 0
    assert "image_size = 96   (default: 224)" in capsys.readouterr().out


def test_the_split_file_is_the_split_of_a_semi_supervised_task(capsys):
    assert command.main(["--task", "imagenet_semi10", "--show-config", "--split-file", "mine.txt"]) == 0
    assert "split = mine.txt   (default: 10percent)" in capsys.readouterr().out


@pytest.mark.parametrize("words, message", [
    (["--task", "all", "--show-config"], "--show-config: expected one task, found 'all'"),
    (["--show-config"], "--show-config: expected one task, found None; --list shows them"),
    (["--task", "coco_dte", "--show-config"], "unknown task 'coco_dte'; did you mean coco_det"),
    (["--task", "voc_det", "--show-config", "--split-file", "x"], "found --task voc_det"),
    (["--task", "voc07_svm", "--show-config", "preset", "visl"], "unknown preset 'visl'; did you mean vissl"),
])
def test_show_config_errors(words, message, capsys):
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("words, cache", [([], Path("output/features")), (["--cache", "x"], Path("x")),
                                          (["--cache", ""], None)])
def test_cache_reaches_the_context(words, cache):
    arguments = command.parser().parse_args(["--task", "imagenet_knn", *words])
    (request,) = command.requested(arguments, words)["imagenet_knn"]
    assert execution.conditions_of(request).cache == cache
