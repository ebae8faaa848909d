"""A GPU that is too small for a run ends it with one line: what happened and what to change."""
import contextlib
import gc

import pytest
import torch
from weights_toys import distinct_backbone

from pretrain import main, trainer
from pretrain.upkeep import dryrun
from tests.pretrain_toys import write_pictures
from transfer import run as command
from transfer.classification import finetune

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")


@contextlib.contextmanager
def only(megabytes, device, module, name):
    """Inside, so much memory of the GPU is left; on a CPU the module's function raises torch's error."""
    with pytest.MonkeyPatch.context() as patch:
        if device.type == "cpu":
            def full(*_):
                raise FULL
            patch.setattr(module, name, full)
            yield
            return
        gc.collect()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        allowed = torch.cuda.memory_reserved() + megabytes * 2 ** 20
        torch.cuda.set_per_process_memory_fraction(allowed / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            gc.collect()
            torch.cuda.empty_cache()


def last_line(capsys):
    """The only line of an error."""
    written = capsys.readouterr().err
    (line,) = [line for line in written.splitlines() if "error" in line.lower() or "File" in line]
    return line


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_pretraining(device, tmp_path, capsys, dry):
    write_pictures(tmp_path, 16)
    with only(200, device, dryrun if dry else trainer, "train_step"):
        status = main.main([str(tmp_path), "--device", device.type, "--processes", "1", "--workers", "0",
                            "--arch", "resnet18", "--projector", "8-8", "--image-size", "224", "--batch-size",
                            "16", "--epochs", "1", "--checkpoint-dir", str(tmp_path / "out"), *dry])
    assert status == 2
    assert last_line(capsys) == ("error: too little GPU memory: CUDA out of memory; lower --batch-size or "
                                 "raise --accumulate")


def transferred(task, device, root, out, *pairs):
    torch.save(distinct_backbone().state, out / "weights.pth")
    return command.main(["--task", task, "--weights", str(out / "weights.pth"), "--data", str(root),
                         "--device", device.type, "--workers", "0", "--smoke", "--results", str(out / "runs"),
                         "--output", str(out / "out"), "--cache", "", *pairs])


def test_classification(device, demo_root, tmp_path, capsys):
    with only(400, device, finetune, "train_epoch"):
        assert transferred("imagenet_semi10", device, demo_root, tmp_path, "image_size", "128") == 2
    assert last_line(capsys) == ("error: too little GPU memory: CUDA out of memory; more --num-gpus share "
                                 "the work; a smaller batch_size, where there is one, makes a scaled run")


def test_detection(cuda, demo_root, tmp_path, capsys):
    """On a CPU it is tests/test_detection_run.py's."""
    with only(300, cuda, None, ""):
        assert transferred("voc_det", cuda, demo_root, tmp_path) == 2
    line = last_line(capsys)
    assert line.startswith("error: too little GPU memory at iteration 0: CUDA out of memory; ")
    assert "ACCUMULATE" in line
