"""Pretraining. From Python: `pretrain.train(methods.recipe(...), Run(data, checkpoint_dir))`."""
from pretrain.trainer import Outcome, Run, train

__all__ = ["Outcome", "Run", "train"]
