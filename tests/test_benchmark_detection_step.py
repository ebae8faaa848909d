"""The detection step's benchmark makes iterations of both detectors, and says clearly that it needs a GPU."""
import detection_toys as toys
import pytest
import torch
from detectron2.utils.events import get_event_storage

from benchmarks import common, detection_step


@pytest.mark.parametrize("yaml, losses", [(detection_step.YAMLS[0], 4), (detection_step.YAMLS[1], 5)])
def test_a_step_trains_the_yaml_s_detector_in_the_precision_asked_for(yaml, losses, monkeypatch):
    seen = []
    run_step = detection_step.AccumulatingTrainer.run_step

    def look(stepper):
        run_step(stepper)
        seen.append((stepper.amp, torch.backends.cudnn.allow_tf32, get_event_storage().latest()))

    monkeypatch.setattr(detection_step.AccumulatingTrainer, "run_step", look)
    detection_step.step_of(yaml, (*toys.SMALL, *detection_step.PRECISIONS["tf32"]), 1, "cpu")()
    (amp, tf32, logged), = seen
    assert not amp and tf32
    assert len([name for name in logged if name.startswith("loss_")]) == losses


def test_without_a_gpu_it_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert common.main("What it is.", detection_step.FLAGS, detection_step.measure, []) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: expected a GPU, found none") and err.count("\n") == 1
