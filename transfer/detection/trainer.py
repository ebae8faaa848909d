"""One detection run: Detectron2's trainer on proven weights, exact resumption, and the figures in the end."""

import contextlib
import functools
import logging
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, defaults
from detectron2.engine import hooks as d2_hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter
from torch import nn

from parallel import signals
from parallel.collectives import agree, all_reduce_sum, barrier, local_device, world_size
from parallel.memory import first_sentence
from transfer.detection import configuration, curves, d2, hooks, pictures, record_files, resumption, sets
from transfer.detection.accumulation import AccumulatingTrainer
from transfer.detection.loader import NamingMapper, TrainLoader
from transfer.detection.norms import joint_on_cpu
from transfer.detection.protocol import Config
from transfer.precision import tf32
from transfer.settings import Context
from transfer.weights import export
from transfer.weights.backbone import Backbone
from transfer.weights.proof import prove_loaded

log = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's DefaultTrainer with our data stream, evaluators and hooks, on GPUs or CPU processes."""

    stopped = False  # by a signal

    def __init__(self, cfg: CfgNode):
        with _ddp_of(cfg.MODEL.DEVICE):
            super().__init__(cfg)
        self._trainer = AccumulatingTrainer(self.model, self.data_loader, self.optimizer,
                                            cfg.SOLVER.ACCUMULATE, cfg.SOLVER.AMP.ENABLED)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = super().build_model(cfg)
        if cfg.MODEL.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        return joint_on_cpu(model) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        return TrainLoader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        return build_detection_test_loader(cfg, dataset_name, mapper=NamingMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """That of the data set's kind; it keeps its files in OUTPUT_DIR/inference."""
        part = MetadataCatalog.get(dataset_name).part
        return part.evaluator(dataset_name, Path(cfg.OUTPUT_DIR) / "inference", cfg.MODEL.MASK_ON)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> dict:
        """Detectron2's, within training and alone; ValueError where the GPU's memory does not suffice."""
        try:
            return super().test(cfg, model, evaluators)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"too little GPU memory in evaluation: {first_sentence(error)}; it takes one image at a "
                "time, so only a GPU with more free memory keeps the protocol (--resume continues from the "
                "last checkpoint); a smaller INPUT.MAX_SIZE_TEST or MODEL.RPN.POST_NMS_TOPK_TEST makes a "
                "scaled run") from None

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks and ours; runs of less than 400 iterations write their metrics more often."""
        # In place of Detectron2's own, before a hook takes it.
        self.checkpointer = resumption.Checkpointer(self.model, self.cfg.OUTPUT_DIR,
                                                    trainer=weakref.proxy(self))
        built = [hook for hook in super().build_hooks() if hook is not None]
        for hook in built:
            if isinstance(hook, d2_hooks.PeriodicWriter):
                hook._period = min(20, max(1, self.cfg.SOLVER.MAX_ITER // 20))
        precise = [number for number, hook in enumerate(built) if isinstance(hook, d2_hooks.PreciseBN)]
        for number in precise:  # before the checkpoint is saved
            built[number]._num_iter *= self.cfg.SOLVER.ACCUMULATE  # as many images as without micro-batches
            built.insert(number + 1, hooks.SameStatistics(built[number]))
        if comm.is_main_process():
            built.append(hooks.Curves(Path(self.cfg.OUTPUT_DIR)))
        return [hooks.SeedEachIteration(self.cfg.SEED), *built, hooks.StopWhenAsked()]

    def after_train(self) -> None:
        """Evaluate: model_final.pth is there, from which a resumed run does it again. A run that was stopped
        only ends its files."""
        if self.stopped:
            self._hooks: list[HookBase] = [
                hook for hook in self._hooks if not isinstance(hook, d2_hooks.EvalHook)]
            for hook in self._hooks:
                if isinstance(hook, d2_hooks.PeriodicWriter):  # it divides by the time since its line
                    hook._writers = [one for one in hook._writers if not isinstance(one, CommonMetricPrinter)]
            return super().after_train()
        with signals.urgent():
            super().after_train()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds. Detectron2 v0.6 leaves the optimiser out; later versions do not."""
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    def load(self, backbone: Backbone, identity: dict[str, Any], resume: bool) -> None:
        """Load the converted backbone and prove in the built model that it arrived; then, if asked for and
        there is one, continue from the last checkpoint. identity: see resumption.read."""
        own = self.checkpointer
        own.identity = identity
        own.load(self.cfg.MODEL.WEIGHTS, checkpointables=[])
        report = prove_loaded(own.model, backbone)  # without DistributedDataParallel
        for line in report.lines():
            log.info("proof: %s", line)
        if comm.is_main_process():
            report.save(Path(self.cfg.OUTPUT_DIR) / "proof.json")
        state = resume and resumption.read(self.cfg.OUTPUT_DIR, identity, own.model.state_dict(),
                                           self.cfg.SOLVER.MAX_ITER, self)
        if state:
            own.model.load_state_dict(state["model"])
            self.load_state_dict(state["trainer"])
            self.start_iter = self.iter + 1
        self.data_loader.start = self.start_iter * self.cfg.SOLVER.ACCUMULATE


@contextlib.contextmanager
def _ddp_of(device):
    """Have Detectron2 wrap the model for the GPU that this process uses, and on a CPU for none.

    It would take the place of the process on its machine, which is another number where each process sees
    its own GPU only.
    """
    original = defaults.create_ddp_model
    numbers = None if device == "cpu" else [torch.cuda.current_device()]
    defaults.create_ddp_model = functools.partial(original, device_ids=numbers)
    try:
        yield
    finally:
        defaults.create_ddp_model = original


def run(backbone: Backbone, config: Config, context: Context) -> dict[str, float]:
    """See protocol.run."""
    cfg = prepare(config, context)
    identity = {**config.resolved(), "weights": backbone.sha256, "seed": context.seed}
    local_device(context.device)  # selects this process's GPU
    d2.join_processes()
    if comm.is_main_process():
        context.out.mkdir(parents=True, exist_ok=True)
        (context.out / "config.yaml").write_text(cfg.dump())
    barrier()
    _require_shared(context.out)
    with d2.log_to(context.out), tf32(cfg.SOLVER.TF32):
        if context.eval_only:
            results = _test_only(cfg, identity)
        else:
            results = _train_and_test(backbone, cfg, identity, context)
    barrier()
    return figures(results, cfg) if comm.is_main_process() else {}


def _require_shared(out):
    """ValueError on every rank where one of them does not see what the main one wrote into `out`."""
    blind = all_reduce_sum(torch.tensor([float(not (out / "config.yaml").is_file())]))
    if blind:
        raise ValueError(f"{out}: expected a folder that all machines share, found none on {int(blind)} of "
                         f"{world_size()} processes; name one with --output")


def prepare(config: Config, context: Context) -> CfgNode:
    """Return the frozen CfgNode of a run: the config with what belongs to the context filled in."""
    cfg = configuration.build(config.yaml, config.options)
    cfg.OUTPUT_DIR, cfg.SEED = str(context.out), context.seed
    cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS = context.device, context.workers
    cfg.MODEL.WEIGHTS = str(context.out / "backbone_d2.pkl")
    cfg.freeze()
    d2.register({name: sets.find(name, context.data, config.own)
                 for name in [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]})
    return cfg


def _train_and_test(backbone, cfg, identity, context):
    if comm.is_main_process():
        export.write_detectron2(backbone, Path(cfg.MODEL.WEIGHTS))
    barrier()
    seed_all_rng(cfg.SEED)  # the heads' initialisation
    trainer = Trainer(cfg)
    trainer.load(backbone, identity, context.resume)
    agree(forget_after, context.out / "metrics.json", trainer.start_iter)
    if cfg.SOLVER.ACCUMULATE > 1:
        images = cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.ACCUMULATE
        log.info("SOLVER.ACCUMULATE %d: the gradient of %d images is averaged over micro-batches of %d, "
                 "whose statistics batch norm uses", cfg.SOLVER.ACCUMULATE, cfg.SOLVER.IMS_PER_BATCH, images)
    if comm.is_main_process():
        weights = "random" if backbone.format == "random" else "trained"
        trainer.register_hooks([hooks.Expected(cfg, weights)])
    try:
        with signals.deferred():
            trainer.train()
    except (FloatingPointError, torch.OutOfMemoryError) as error:
        raise ValueError(explained(error, trainer)) from None
    if comm.is_main_process():
        record_files.write(context.out, _prefixes(cfg), pictures.detections(trainer.checkpointer.model, cfg))
    return trainer._last_eval_results


def explained(error: Exception, trainer: Trainer) -> str:
    """Return one line: why training ended early, at which iteration, and what to change."""
    solver, last = trainer.cfg.SOLVER, trainer.checkpointer.get_checkpoint_file() or "none"
    if isinstance(error, torch.OutOfMemoryError):
        return (f"too little GPU memory at iteration {trainer.iter}: {first_sentence(error)}; "
                f"{_smaller(solver, comm.get_world_size())}")
    return (f"training diverged at iteration {trainer.iter}: {' '.join(str(error).split())}; lower "
            f"SOLVER.BASE_LR or lengthen SOLVER.WARMUP_ITERS (last checkpoint: {last})")


def _smaller(solver, gpus):
    """Return what lets an iteration fit into memory, beginning with what keeps the protocol."""
    batch = solver.IMS_PER_BATCH // solver.ACCUMULATE  # the images at a time, of all GPUs
    parts = next((number for number in range(2, batch // gpus + 1) if batch // gpus % number == 0), None)
    if parts is None:
        return ("each GPU has one image at a time, so only GPUs with more free memory keep the protocol; a "
                "smaller INPUT.MAX_SIZE_TRAIN makes a scaled run")
    return (f"more --num-gpus keep the protocol; SOLVER.ACCUMULATE {parts * solver.ACCUMULATE} keeps batch, "
            f"rate and iterations, a scaled run only as batch norm sees {batch // parts} images; --rescale "
            "changes them all")


def _test_only(cfg, identity):
    """Evaluate the newest checkpoint of a run without training; model_final.pth where it is finished."""
    model = Trainer.build_model(cfg)
    state = resumption.read(cfg.OUTPUT_DIR, identity, model.state_dict(), cfg.SOLVER.MAX_ITER)
    if not state:
        raise ValueError(f"{cfg.OUTPUT_DIR}: expected the checkpoint of a detection run, found none; run the "
                         "same command without --eval-only first")
    model.load_state_dict(state["model"])
    log.info("evaluating %s: %d of %d iterations", resumption.newest(cfg.OUTPUT_DIR), state["iteration"] + 1,
             cfg.SOLVER.MAX_ITER)
    return Trainer.test(cfg, model)


def forget_after(path: Path, iteration: int) -> None:
    """Drop the lines of a metrics.json, if any, from `iteration` on: a resumed run writes them again. On the
    main process; a line that a kill cut off goes, too."""
    if not comm.is_main_process() or not os.path.lexists(path):
        return
    rows = curves.rows_of(path)
    lines = path.read_bytes().splitlines(keepends=True)
    left = [line for line, row in zip(lines, rows) if row["iteration"] < iteration]
    path.write_bytes(b"".join(left))  # in place: Detectron2's writer has the file open already, to append


def figures(results: dict[str, dict[str, float]], cfg: CfgNode) -> dict[str, float]:
    """Return Detectron2's nested results as {metric: percent}, with the prefixes of the test set's kind."""
    return {_prefixes(cfg)[kind] + name: float(value)
            for kind, values in results.items() for name, value in values.items()}


def _prefixes(cfg):
    return MetadataCatalog.get(cfg.DATASETS.TEST[0]).part.prefixes
