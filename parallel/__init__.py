"""Several processes: what pretraining and transfer both stand on.

process.py      which process this is, how its errors are said; without torch
collectives.py  sums and gathered rows, decisions that all processes take alike
batchnorm.py    batch normalisation over the rows of all processes
groups.py       the group of processes: meeting, also those of torchrun and SLURM, and leaving together
launch.py       starting processes on this machine
files.py        writing a file whole
attachments.py  the small files beside a record
listing.py      the pictures of a folder or a text list, and their order
pixels.py       mean and standard deviation of ImageNet's
checkpoints.py  the file that a run resumes from
watch.py        who is still there, and leaving together
signals.py      being asked to stop
slurm.py        what SLURM says of this process
launcher.py     the flags of --launcher slurm; jobs.py submits jobs and waits for them
"""
import os

# torch reports each lost connection with a C++ stack of thirty lines; what happened is said by watch.py, in
# one. torch reads the level when it is first imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
