"""Whole detection runs on tiny data: proof, training, resumption, evaluation, files, refusals."""

import dataclasses
import json
import os
import random
import signal
from types import SimpleNamespace

import detection_toys as toys
import pytest
import torch
from PIL import Image
from weights_toys import distinct_backbone

from parallel import signals
from transfer import run as command
from transfer.detection import configuration, d2, hooks, norms, resumption, trainer
from transfer.detection.protocol import Config, run
from transfer.detection.sets import voc
from transfer.precision import tf32
from transfer.weights.readers import read

VOC = Config("pascal_voc_R_50_C4_24k_bt.yaml").override(
    [*toys.SMALL, "SOLVER.MAX_ITER", "4", "SOLVER.ACCUMULATE", "2", "TEST.EVAL_PERIOD", "2"])
COCO = [*toys.SMALL, "SOLVER.MAX_ITER", "2", "MODEL.ROI_HEADS.NUM_CLASSES", "3"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toys.write_coco(toys.write_voc(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def backbone():
    return read("random")


@pytest.fixture(scope="module")
def voc_run(root, backbone, tmp_path_factory):
    """An uninterrupted VOC run of 4 iterations: (context, metrics)."""
    context = toys.context(root, tmp_path_factory.mktemp("voc_run"))
    return context, run(backbone, VOC, context)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]


def test_voc_run_has_figures_and_detectron2_s_files(voc_run):
    context, metrics = voc_run
    assert list(metrics) == ["AP50", "AP", "AP75"] and all(0 <= value <= 100 for value in metrics.values())
    written = lines(context.out)
    assert [line["iteration"] for line in written if "total_loss" in line] == [0, 1, 2, 3]
    assert written[-1]["bbox/AP50"] == metrics["AP50"]
    for name in ("config.yaml", "log.txt", "model_final.pth", "inference/per_class.json"):
        assert (context.out / name).stat().st_size
    for name in ("detections.jpg", "losses.png", "precision.png", "per_class.png", "record/picture.jpg"):
        assert Image.open(context.out / name).size > (100, 100)
    log = (context.out / "log.txt").read_text()
    assert "C4 network: 318 of 318 tensors in place" in log and "iter: 3" in log
    (network,) = json.loads((context.out / "proof.json").read_text())["networks"]
    assert network["in_place"] == 318 and max(network["differences"].values()) < 1e-4
    assert "SOLVER.ACCUMULATE 2: the gradient of 2 images is averaged over micro-batches of 1" in log


@pytest.mark.parametrize("yaml", ["coco_R_50_C4_1x_bt.yaml", "coco_R_50_FPN_1x_vicreg.yaml"])
def test_coco_run_has_box_and_mask_figures(root, backbone, tmp_path, yaml):
    metrics = run(backbone, Config(yaml).override(COCO), toys.context(root, tmp_path))
    names = ["AP", "AP50", "AP75", "APs", "AR1", "AR10", "AR100", "ARs"]  # all objects of the toys are small
    assert list(metrics) == [f"box_{name}" for name in names] + [f"mask_{name}" for name in names]
    assert all(0 <= value <= 100 for value in metrics.values())
    assert "loss_mask" in lines(tmp_path)[0]
    assert (tmp_path / "detections.jpg").exists()


def test_an_interrupted_run_resumes_to_the_same_weights_with_other_workers(root, backbone, voc_run, tmp_path,
                                                                         monkeypatch):
    context = toys.context(root, tmp_path)
    often = VOC.override(["SOLVER.CHECKPOINT_PERIOD", "1"])  # no part of the identity
    before_step = hooks.SeedEachIteration.before_step
    draw = random.Random(0)
    cut = draw.randrange(2, 4)
    saved = draw.randrange(cut - 1)  # the last whole checkpoint, as if cut while the next was written

    def power_cut(hook):
        if hook.trainer.iter == cut:
            raise KeyboardInterrupt
        before_step(hook)

    monkeypatch.setattr(hooks.SeedEachIteration, "before_step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        run(backbone, often, context)
    monkeypatch.undo()
    (tmp_path / "last_checkpoint").write_text(f"model_{saved:07d}.pth")
    metrics = run(backbone, often, dataclasses.replace(context, workers=1, resume=True))
    assert_the_same_run(voc_run, tmp_path, metrics)


def test_a_stop_signal_is_saved_after_its_iteration(root, backbone, voc_run, tmp_path, monkeypatch):
    """SIGUSR1 in iteration 1, long before a checkpoint is due."""
    context, before_step = toys.context(root, tmp_path), hooks.SeedEachIteration.before_step

    def told(hook):
        before_step(hook)
        if hook.trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(hooks.SeedEachIteration, "before_step", told)
    with signals.listening(), pytest.raises(signals.Stopped):
        run(backbone, VOC, dataclasses.replace(context, workers=1))
    monkeypatch.undo()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert_the_same_run(voc_run, tmp_path, run(backbone, VOC, dataclasses.replace(context, resume=True)))


def assert_the_same_run(voc_run, out, metrics):
    """Figures, weights and momenta of a run left alone and of one in parts."""
    assert metrics == voc_run[1]
    assert [line["iteration"] for line in lines(out) if "total_loss" in line] == [0, 1, 2, 3]
    whole, parts = (torch.load(folder / "model_final.pth", weights_only=True)
                    for folder in (voc_run[0].out, out))
    assert whole["model"].keys() == parts["model"].keys()
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name
    momenta = [state["_trainer"]["optimizer"]["state"] for state in (whole["trainer"], parts["trainer"])]
    assert len(momenta[0]) > 100
    for key, values in momenta[0].items():
        assert torch.equal(values["momentum_buffer"], momenta[1][key]["momentum_buffer"])


def test_a_finished_run_is_only_evaluated_again(backbone, voc_run):
    context, metrics = voc_run
    assert run(backbone, VOC, dataclasses.replace(context, resume=True)) == metrics


def test_looking_at_ap_during_training_changes_neither_weights_nor_figures(root, backbone, voc_run, tmp_path):
    metrics = run(backbone, VOC.override(["TEST.EVAL_PERIOD", "0"]), toys.context(root, tmp_path))
    assert metrics == voc_run[1]
    looked, unseen = (torch.load(out / "model_final.pth", weights_only=True)["model"]
                      for out in (voc_run[0].out, tmp_path))
    assert looked.keys() == unseen.keys()
    for name, tensor in looked.items():
        assert torch.equal(tensor, unseen[name]) or name.endswith("num_batches_tracked"), name


@pytest.mark.parametrize("pairs, rounded", [([], False), (["SOLVER.TF32", "True"], True)])
def test_float32_is_rounded_to_tf32_only_where_asked_and_only_inside_a_run(root, backbone, tmp_path,
                                                                           monkeypatch, pairs, rounded):
    def flags(*_):
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    def look(*_):
        seen.append(flags())
        raise KeyboardInterrupt

    seen = []
    monkeypatch.setattr(trainer, "_train_and_test", look)
    with tf32(not rounded):
        with pytest.raises(KeyboardInterrupt):
            run(backbone, VOC.override(pairs), toys.context(root, tmp_path))
        assert seen == [(rounded, rounded)] and flags() == (not rounded, not rounded)


def test_weights_that_do_not_arrive_stop_the_run_before_training(root, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(resumption.Checkpointer, "load", lambda self, path, checkpointables: None)
    with pytest.raises(ValueError, match="is not the backbone's"):
        run(backbone, VOC, toys.context(root, tmp_path))
    assert not lines(tmp_path)


def test_a_loss_that_is_not_finite_is_one_line(root, backbone, tmp_path, capsys):
    with pytest.raises(ValueError) as error:
        run(backbone, VOC.override(["SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_FACTOR", "1.0",
                                    "TEST.EVAL_PERIOD", "0"]), toys.context(root, tmp_path))
    assert "training diverged at iteration 1" in str(error.value) and "SOLVER.BASE_LR" in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in capsys.readouterr().out
    assert (tmp_path / "losses.png").exists()  # iteration 0 was finite


def test_a_folder_that_other_machines_do_not_see_is_refused(root, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.comm, "is_main_process", lambda: False)  # on the machine that is not rank 0's
    with pytest.raises(ValueError, match="expected a folder that all machines share, found none on 1 of 1 "
                                         "processes; name one with --output"):
        run(backbone, VOC, toys.context(root, tmp_path / "run"))


FULL = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has\n15")


@pytest.mark.parametrize("accumulate, batch, gpus, advice", [
    ("1", "16", 1, "more --num-gpus keep the protocol; SOLVER.ACCUMULATE 2 keeps batch, rate and iterations, "
                   "a scaled run only as batch norm sees 8 images; --rescale changes them all"),
    ("1", "6", 2, "SOLVER.ACCUMULATE 3 keeps batch, rate and iterations, a scaled run only as batch norm "
                  "sees 2 images"),
    ("2", "16", 8, "each GPU has one image at a time, so only GPUs with more free memory keep the protocol"),
])
def test_too_little_memory_in_training_says_what_keeps_the_protocol(monkeypatch, accumulate, batch, gpus,
                                                                    advice):
    pairs = ("SOLVER.ACCUMULATE", accumulate, "SOLVER.IMS_PER_BATCH", batch)
    built = SimpleNamespace(iter=7, cfg=configuration.build("coco_R_50_C4_1x_bt.yaml", pairs),
                            checkpointer=SimpleNamespace(get_checkpoint_file=lambda: ""))
    monkeypatch.setattr(trainer.comm, "get_world_size", lambda: gpus)
    line = trainer.explained(FULL, built)
    assert line.startswith("too little GPU memory at iteration 7: CUDA out of memory; ")
    assert advice in line and "\n" not in line


def test_too_little_memory_in_evaluation_is_one_line_of_its_own(root, backbone, tmp_path, monkeypatch):
    """Within training, where no advice on micro-batches would help."""
    def full(*_):
        raise FULL

    monkeypatch.setattr(trainer.DefaultTrainer, "test", full)
    with pytest.raises(ValueError) as error:
        run(backbone, VOC.override(["SOLVER.ACCUMULATE", "1"]), toys.context(root, tmp_path))
    line = str(error.value)
    assert line.startswith("too little GPU memory in evaluation: CUDA out of memory; it takes one image")
    assert "INPUT.MAX_SIZE_TEST" in line and "ACCUMULATE" not in line and "\n" not in line


def test_the_head_has_an_extra_norm_after_res5_and_gets_the_backbone_s_layer4(root, tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    from transfer.weights.export import write_detectron2

    cfg = trainer.prepare(Config("coco_R_50_C4_1x_bt.yaml"), toys.context(root, tmp_path))
    model = build_model(cfg)
    res5 = model.roi_heads.res5
    assert [name for name, _ in res5.named_children()] == ["0", "1", "2", "norm"]
    assert isinstance(res5.norm, torch.nn.SyncBatchNorm) and res5.norm.num_features == 2048
    assert all(parameter.requires_grad for parameter in model.parameters())  # FREEZE_AT 0
    write_detectron2(distinct_backbone(), tmp_path / "backbone_d2.pkl")
    DetectionCheckpointer(model).load(str(tmp_path / "backbone_d2.pkl"))
    state = distinct_backbone().state
    assert torch.equal(res5[2].conv3.weight, state["layer4.2.conv3.weight"])
    assert torch.equal(res5[0].shortcut.norm.running_var, state["layer4.0.downsample.1.running_var"])
    assert torch.equal(res5.norm.running_mean, torch.zeros(2048))
    model.eval()
    with torch.no_grad():
        res5.norm.weight.zero_()
        assert not res5(torch.rand(1, 1024, 14, 14)).any()  # the norm is the last thing that happens


def test_sync_bn_is_plain_bn_in_one_cpu_process_and_other_norms_stay():
    layers = torch.nn.Sequential(torch.nn.SyncBatchNorm(3), torch.nn.GroupNorm(1, 3), torch.nn.BatchNorm2d(3))
    plain = torch.nn.BatchNorm2d(3)
    norms.joint_on_cpu(layers)
    assert [type(layer) for layer in layers[1:]] == [torch.nn.GroupNorm, torch.nn.BatchNorm2d]
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(layers[0](images), plain(images))
    assert torch.equal(layers[0].running_var, plain.running_var)


def test_logs_of_two_runs_do_not_mix(tmp_path, capsys):
    import logging

    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with d2.log_to(tmp_path / name):
            logging.getLogger("detectron2.utils.events").info("\x1b[36mprogress of %s\x1b[0m", name)
            logging.getLogger("detectron2.data.build").info("detail")
    assert "progress of first" not in (tmp_path / "second" / "log.txt").read_text()
    assert capsys.readouterr().out.count(" progress of second\n") == 1
    text = (tmp_path / "first" / "log.txt").read_text()
    assert "detail" in text and "\x1b" not in text  # Detectron2 colours its lines for a terminal


# --eval-only

def figures(said):
    """The figures that run.py printed, without the time."""
    return [line.split("  (")[0] for line in said.out.splitlines() if line.startswith("voc_det seed 0: AP50")]


def test_eval_only_gives_the_figures_of_the_run_again_and_stores_nothing(tmp_path, monkeypatch, capsys):
    root = toys.write_voc(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    found, original = [], voc.class_precisions
    monkeypatch.setattr(voc, "class_precisions", lambda detections, *others: (
        found.extend(detections), original(detections, *others))[1])

    def run(*words):
        found.clear()
        status = command.main([
            "--task", "voc_det", "--weights", "random", "--data", str(root), "--results", "runs",
            "--device", "cpu", "--workers", "0", *words, *toys.SMALL, "SOLVER.MAX_ITER", "2",
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
        return status, capsys.readouterr()

    status, said = run("--output", "out", "--eval-only")
    assert status == 2 and "expected the checkpoint of a detection run, found none" in said.err
    assert not (tmp_path / "out").exists()
    status, said = run("--output", "out")
    first, detected = figures(said), list(found)
    assert status == 0 and len(detected) > 10
    kept = [tmp_path / "out" / "metrics.json", tmp_path / "out" / "run.json",
            *(tmp_path / "runs").rglob("*.json")]
    before = [path.read_bytes() for path in kept]
    status, said = run("--output", "out", "--eval-only")
    assert status == 0 and figures(said) == first and found == detected
    assert "model_final.pth: 2 of 2 iterations" in said.out and "eta:" not in said.out
    assert [path.read_bytes() for path in kept] == before and len(kept) > 1
    status, said = run("--output", "out", "--eval-only", "--seed", "1")
    assert status == 2 and "is a run with another seed" in said.err

    # A picture that is repaired afterwards
    test = root / "VOC2007" / "JPEGImages" / "000009.jpg"
    test.write_bytes(test.read_bytes() + b"x")
    mark = json.loads((tmp_path / "out" / "run.json").read_text())
    status, said = run("--output", "out", "--eval-only")
    evaluated = said.out
    assert status == 0 and figures(said) == first
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == mark  # how watch.py knows the run
    status, said = run("--output", "out", "--resume")  # for a record
    assert status == 0 and figures(said) == first
    now = json.loads((tmp_path / "out" / "run.json").read_text())
    assert f"fingerprint {now['data']['fingerprint'][:12]}" in evaluated
    assert now["data"]["fingerprint"] != mark["data"]["fingerprint"]
    assert now["training data"] == mark["training data"]
    records = [json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("*-s0.json")]
    assert {record["data"]["fingerprint"] for record in records} == {
        one["data"]["fingerprint"] for one in (mark, now)}
    label = root / "VOC2012" / "Annotations" / "000005.xml"
    label.write_text(label.read_text().replace("<difficult>0", "<difficult>1"))
    for flag in ("--eval-only", "--resume"):
        status, said = run("--output", "out", flag)
        assert status == 2 and "is a run with another training data; choose another" in said.err
