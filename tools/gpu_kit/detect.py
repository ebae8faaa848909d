"""Both papers' detectors at full size, two images an iteration (one GPU's share of 16), by
benchmarks/detection_step.py: speed, memory, and losses that stay finite."""
import statistics

import torch

from benchmarks import common
from benchmarks.detection_step import PRECISIONS, YAMLS, step_of
from tools.gpu_kit.job import Job

RATE = ("SOLVER.BASE_LR", "0.0005")  # as low as in the warm-up, since the network starts without weights
SMALL = ("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "96",
         "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "20",
         "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "4")


def measure(job: Job) -> int:
    images, rounds, iterations = (1, 1, 1) if job.small else (2, 10, 5)  # 60 iterations, warm-up included
    device = torch.device(job.device)
    for yaml in YAMLS:
        built = {name: common.built(lambda: step_of(
            yaml, (*(SMALL if job.small else ()), *RATE, *pairs), images, job.device), device)
            for name, pairs in PRECISIONS.items()}
        done, finite = dict.fromkeys(built, 0), dict.fromkeys(built, 0)

        def several(name):
            for _ in range(iterations):
                done[name] += 1
                try:
                    built[name][0]()
                except FloatingPointError:  # Detectron2's, for losses that are not finite
                    continue
                finite[name] += 1

        seconds = common.compare({name: lambda name=name: several(name) for name in built}, rounds, 0,
                                 common.synchroniser(device))
        short = yaml.removesuffix(".yaml")
        for name, (_, most) in built.items():
            job.note(f"{short}, {name}: speed", iterations / statistics.median(seconds[name]), "iterations/s")
            job.note(f"{short}, {name}: peak memory", most / 2**30, "GiB")
            job.note(f"{short}, {name}: finite losses", 100 * finite[name] / done[name],
                     f"% of {done[name]} iterations", least=100)
            if name != "float32":
                ratio = common.ratio(seconds["float32"], seconds[name])
                job.note(f"{short}: {name} over float32", ratio.median,
                         f"times ({ratio.low:.2f}-{ratio.high:.2f})")
    return 0
