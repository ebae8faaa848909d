"""Settings and flags that no run can have: refused before anything is read, made or started.

CASES: (command, words, what the one line says). "task NAME" is transfer/run.py --check, "pretrain" is
pretrain/main.py --dry-run.
"""

NOTHING = {  # by kind of number: values that no setting of that kind can have
    "count": ("0", "-1", "3000000000"), "rate": ("nan", "inf", "-1"), "positive": ("nan", "inf", "0", "-1"),
    "share": ("nan", "0", "1", "1.5"), "probability": ("nan", "-0.1", "1.1"),
}
OF_TASKS = {
    "imagenet_linear": {"count": ("epochs", "batch_size"), "share": ("held_out",), "rate": (
        "learning_rate", "weight_decay", "initial_std", "sweep_learning_rates", "sweep_weight_decays")},
    "imagenet_semi1": {"count": ("epochs", "batch_size"), "rate": (
        "backbone_learning_rate", "head_learning_rate", "weight_decay", "drop_factor")},
    "imagenet_knn": {"positive": ("temperature",)},
    "voc07_svm": {"count": ("max_iterations",), "positive": ("costs", "positive_weight", "tolerance"),
                  "rate": ("norm_epsilon",)},
    "voc07_lowshot": {"count": ("shots", "draws")},
    "cifar10_probe": {"count": ("strengths", "max_iterations"), "positive": ("weakest", "strongest"),
                      "share": ("held_out",)},
}
OF_PRETRAINING = {
    "count": ("--epochs", "--print-freq", "--keep", "--max-skips", "--accumulate"),
    "rate": ("--learning-rate-weights", "--learning-rate-biases", "--weight-decay", "--checkpoint-minutes",
             "--lambd"),
    "positive": ("--trust-coefficient", "--loss-scale", "--device-memory"),
    "probability": ("--flip", "--grey", "--warmup-start"),
}
OTHERS = (
    ("task imagenet_linear", ("image_size", "1"),
     "image_size: expected from 8 to 4096, or 0 for the stem's size, found 1"),
    ("task imagenet_linear", ("image_size", "100000"), "image_size: expected from 8 to 4096"),
    ("task imagenet_linear", ("momentum", "1"), "momentum: expected a number from 0 to below 1"),
    ("task imagenet_linear", ("nesterov", "true", "momentum", "0"), "nesterov: expected sgd and a momentum"),
    ("task imagenet_linear", ("schedule", "linear"), "schedule: expected cosine, step or exponential, found"),
    ("task imagenet_linear", ("precision", "int8"), "precision: expected one of"),
    ("task imagenet_linear", ("epochs", "ten"), "epochs: expected int such as 100, found 'ten'"),
    ("task imagenet_linear", ("crop_scale", "0.5"), "crop_scale: expected two shares in rising order"),
    ("task imagenet_linear", ("crop_scale", "1,0.5"), "crop_scale: expected two shares in rising order"),
    ("task imagenet_semi1", ("drop_epochs", "-1"), "drop_epochs: expected values from 0"),
    *(("task imagenet_knn", ("k", value), "k: expected values from 0") for value in ("", "-1", "3000000000")),
    ("task imagenet_knn", ("k", "1,100000"), "k: expected values up to the"),
    ("task voc07_svm", ("folds", "1"), "folds: expected from 2"),
    ("task cifar10_probe", ("weakest", "10", "strongest", "1"), "expected weakest <= strongest"),
    *(("task voc_det", (key, value), f"{key}: expected") for key, value in (
        ("SOLVER.MAX_ITER", "0"), ("SOLVER.MAX_ITER", "-5"), ("SOLVER.IMS_PER_BATCH", "0"),
        ("SOLVER.BASE_LR", "-0.1"), ("SOLVER.BASE_LR", "1e999"), ("SOLVER.MOMENTUM", "1"),
        ("SOLVER.MOMENTUM", "-1"), ("SOLVER.STEPS", "(3, 2)"), ("SOLVER.STEPS", "(-1,)"),
        ("SOLVER.GAMMA", "-0.1"), ("SOLVER.WARMUP_ITERS", "-1"), ("SOLVER.WEIGHT_DECAY", "-1.0"),
        ("SOLVER.CHECKPOINT_PERIOD", "0"), ("INPUT.MAX_SIZE_TRAIN", "0"), ("INPUT.MIN_SIZE_TRAIN", "(-1,)"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "0"), ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "0"),
        ("MODEL.RPN.NMS_THRESH", "1.5"), ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "-0.1"),
        ("MODEL.RPN.POST_NMS_TOPK_TEST", "0"), ("TEST.DETECTIONS_PER_IMAGE", "-1"))),
    ("task voc_det", ("SOLVER.MAX_ITER", "many"), "SOLVER.MAX_ITER: expected int"),
    ("task voc_det", ("SOLVER.MAX_ITERS", "9"), "unknown key 'SOLVER.MAX_ITERS'; did you mean"),
    ("task imagenet_linear", ("--workers", "100000"), "--workers: expected 0 to 1024, found 100000"),
    ("task imagenet_linear", ("--workers", "-1"), "--workers: expected 0 to 1024"),
    ("task imagenet_linear", ("--seed", "-1"), "--seed: expected 0 to"),
    ("task imagenet_linear", ("--seed", "4294967296"), "--seed: expected 0 to"),
    ("task imagenet_linear", ("--seeds", "0"), "--seeds: expected 1 to"),
    ("task imagenet_linear", ("--num-gpus", "0"), "--num-gpus: expected 1 to"),
    ("task imagenet_linear", ("--num-gpus", "1.5"), "invalid int value: '1.5'"),
    ("task nothing", (), "unknown task 'nothing'"),
    ("pretrain", ("--image-size", "1"), "--image-size expected pixels from 8 to 4096, found 1"),
    ("pretrain", ("--batch-size", "1"), "--batch-size expected at least 2"),
    ("pretrain", ("--workers", "100000"), "--workers expected 0 to 1024, found 100000"),
    ("pretrain", ("--processes", "0"), "--processes expected at least 1"),
    ("pretrain", ("--processes", "7"), "does not divide by 7 processes"),
    ("pretrain", ("--knn-data", "nowhere"), "nowhere: no such file or folder"),
    ("pretrain", ("--online-probe", "nowhere"), "nowhere: no such file or folder"),
    ("pretrain", ("--seed", "-1"), "--seed expected a number from 0"),
    ("pretrain", ("--arch", "resnet51"), "--arch expected one of resnet18"),
    ("pretrain", ("--stem", "large"), "--stem expected one of"),
    ("pretrain", ("--precision", "fp8"), "--precision expected one of fp32, bf16, fp16"),
    ("pretrain", ("--projector", "0-1"), "--projector expected widths joined by dashes"),
    ("pretrain", ("--projector", "99x"), "--projector expected widths joined by dashes"),
    ("pretrain", ("--crop-scale", "0.5,0.1"), "--crop-scale expected two shares in rising order"),
    ("pretrain", ("--blur", "2,0"), "--blur expected two probabilities"),
    ("pretrain", ("--spike-factor", "0.5"), "--spike-factor expected 0 or more than 1"),
    ("pretrain", ("--reference-world-size", "0"), "--reference-world-size expected actual or"),
    ("pretrain", ("--warmup-epochs", "-1"), "--warmup-epochs expected at least 0"),
    ("pretrain", ("--method", "dino"), "dino"),
    ("pretrain", ("--preset", "fast"), "fast"),
    ("pretrain", ("--epochs", "1e3"), "invalid int value: '1e3'"),
)
CASES = (
    *((f"task {task}", (name, value), f"{name}: expected")
      for task, kinds in OF_TASKS.items() for kind, names in kinds.items() for name in names
      for value in NOTHING[kind]),
    *(("pretrain", (name, value), f"{name} expected") for kind, names in OF_PRETRAINING.items()
      for name in names for value in NOTHING[kind]),
    *OTHERS,
)
