"""One update of the trainer on given views, for tests/gpu."""
import torch

from pretrain import trainer
from pretrain.trainer import Run
from tests.pretrain_toys import toy_recipe

COUNT, SIZE = 16, 32
SETTINGS = dict(batch_size=COUNT, image_size=SIZE, arch="resnet18", stem="cifar", projector="64-32", epochs=1,
                warmup_epochs=0)


def views():
    generator = torch.Generator().manual_seed(3)
    pictures = torch.randn(COUNT, 3, SIZE, SIZE, generator=generator)
    return pictures, pictures + 0.5 * torch.randn(COUNT, 3, SIZE, SIZE, generator=generator)


def prepared(root, device, run=(), **changes):
    recipe = toy_recipe(**SETTINGS | changes)
    return trainer.prepare(recipe, Run(root, root, device=device.type, workers=0, **dict(run)))


def update(training, given=None, wide=False):
    """(what trainer.train_step did to weights and to biases, float64 on the CPU; what it saw)."""
    network = training.network
    if wide:
        network.double()
    before = [p.detach().double().cpu().clone() for p in network.parameters()]
    given = [view.to(training.device, torch.float64 if wide else torch.float32,
                     memory_format=training.run.memory_format) for view in given or views()]
    network.train()
    seen = trainer.train_step(training, 0, given)
    moves = [p.detach().double().cpu() - old for p, old in zip(network.parameters(), before)]
    weights, biases = (torch.cat([move.flatten() for move in moves if (move.ndim == 1) == flat])
                       for flat in (False, True))
    return (weights, biases), training.guard.read(seen.numbers.tolist())
