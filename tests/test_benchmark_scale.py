"""The scale's tables: what they are computed from agrees with real steps, seconds follow from the rates."""
import re

import detection_toys as toys
import pytest
import torch

from benchmarks import detection_costs, detection_step, scale
from parallel.ledger import Kernel, Ledger
from pretrain.upkeep.forecast import Message
from transfer.classification import knn


@pytest.mark.parametrize("yaml", detection_step.YAMLS)
def test_a_detectors_costs_are_those_of_a_real_iteration(yaml):
    """Operations are equal but for the mask head's, whose regions are at most those that are foreseen."""
    pairs = (*toys.SMALL, "MODEL.RPN.POST_NMS_TOPK_TRAIN", "200", "INPUT.MIN_SIZE_TRAIN", "(160,)",
             "INPUT.MAX_SIZE_TRAIN", "224")
    with Ledger() as real:
        step = detection_step.step_of(yaml, pairs, 2, "cpu")
        step()
        real.restart()
        step()
    foreseen = detection_costs.step_costs(yaml, pairs, 2)
    if "coco" in yaml:
        assert 0.95 * foreseen.flops < real.flops <= foreseen.flops
    else:
        assert real.flops == foreseen.flops
    assert foreseen.peak == pytest.approx(real.peak, rel=0.1)


def test_the_memory_of_knn_is_the_banks_and_one_block_on_the_gpu():
    host, gpu = scale.nearest_costs(8, train=80_000, validation=1000)
    bank, queries, block = (rows * 2048 * 4 for rows in (10_000, 1000, knn.BLOCK))
    assert bank + queries < host.peak < 2.1 * bank + 3 * queries  # a block's copy, normalised
    assert queries < gpu.peak < queries + 3 * block
    alone, of_eight = (scale.nearest_costs(ranks, 80_000, 1000)[1].flops for ranks in (1, 8))
    assert alone == 2 * 80_000 * 1000 * 2048 == 8 * of_eight


def test_a_linear_step_computes_one_forward_pass():
    """4.09 billion multiplications an image by torchvision's own count, two operations each."""
    costs = scale.linear_costs(64)
    assert costs.flops / 4 == pytest.approx(2 * 4.09e9, rel=0.01)
    assert 25e6 * 4 < costs.peak < 2 ** 28


def test_seconds_follow_from_the_rates():
    rates = scale.Rates(matrix=100, tf32=50, float32=10, share=0.5, memory=1, inside=100, between=10, host=8,
                        latency=1000)
    kernels = [Kernel(10**12, 10**9, torch.bfloat16), Kernel(10**12, 10**9, torch.float32),
               Kernel(0, 10**12, torch.float32)]
    assert rates.computing(kernels) == pytest.approx(1 / 50 + 1 / 5 + 1)
    assert rates.computing(kernels, tf32=True) == pytest.approx(1 / 50 + 1 / 25 + 1)
    messages = [Message("all-reduce", 10**9), Message("broadcast", 10**9)]
    assert rates.sending(messages, 2) == pytest.approx(2 * 0.5 / 100 + 0.5 / 100 + 0.002)
    assert rates.sending(messages, 16) == pytest.approx((2 + 1) * 15 / 16 / 10 + 0.002)


def test_the_tables_of_pretraining_are_printed_and_put_into_a_page(tmp_path, monkeypatch, capsys):
    small = dict(arch="resnet18", image_size=64, projector="64-64")
    steps, traffic, kept = sheets = scale.pretraining(scale.Rates(), (64,), (1, 8), **small)
    assert [row[:2] for row in steps.rows] == [(64, 1), (64, 8)]
    assert [row[:2] for row in traffic.rows] == [(64, 8)]
    assert "GiB, weights" in kept.title
    monkeypatch.setattr(scale, "pretraining", lambda rates: sheets)
    monkeypatch.setattr(scale, "tasks", lambda rates: kept)
    monkeypatch.setattr(scale, "detection", lambda rates: kept)
    monkeypatch.setattr(scale, "features", lambda rates: kept)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scale:pretraining -->\nold\n<!-- /scale:pretraining -->\nafter\n")
    assert scale.main(["--write", str(page), "--disk", "2"]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- scale:pretraining -->\nResNet-50") and text.endswith("after\n")
    assert "\nold\n" not in text and re.search(r"\n\| 64 +\| +8 \|", text)
    assert "TFLOP a GPU" in capsys.readouterr().out


def test_the_memory_of_an_svm_is_what_numpy_allocates():
    features, kernel = 8 * 5011 * 2048, 8 * 5011 ** 2
    assert features + kernel < scale.svm_bytes() < 2 * features + 3 * kernel
