"""What may happen to a checkpoint, for the tests of those who read one."""
import torch


def changed(*path, to=None):
    """A damage: the entry at a path of keys replaced, or without `to` removed."""
    def change(file):
        state = inner = torch.load(file, weights_only=True)
        for key in path[:-1]:
            inner = inner[key]
        if to is None:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to
        torch.save(state, file)
    return change
