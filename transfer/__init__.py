"""Transfer of a pretrained ResNet: weights in, tasks run, one record each."""

import functools

from parallel import process

command = functools.partial(process.command, "transfer.run")
