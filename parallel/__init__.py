"""What pretraining and transfer share: several processes, and files.

process.py      which process this is, how its errors are printed; without torch
collectives.py  sums and gathered rows, decisions that all processes make alike
batchnorm.py    batch normalisation over the rows of all processes, or over groups of rows
groups.py       the group of processes, also those of torchrun and SLURM: meeting and leaving together
launch.py       starting processes on this machine
files.py        writing a file whole
places.py       where the suite is, and where what it writes belongs
attachments.py  the small files beside a record
listing.py      the pictures of a folder or a text list, and their order
manifests.py    the lists with which data sets come: iNaturalist's, Places', plain ones
memory.py       a GPU that is too small, said in one line
ledger.py       memory, operations and bytes of a computation, also of one that is only tried
resnets.py      torchvision's ResNets without their classifier, with their stems
pixels.py       picture files as RGB; ImageNet's mean and standard deviation
packed.py       .npz and other pictures in memory; many strings in little memory
parquet.py      pictures in parquet files
spectrum.py     the effective rank of features
checkpoints.py  the file that a run resumes from
watch.py        which processes are still there
signals.py      being asked to stop
slurm.py        what SLURM says of this process
launcher.py     the flags of --launcher slurm; jobs.py submits jobs and waits for them
"""
import os

# torch reports each lost connection with a C++ stack of thirty lines; watch.py says in one line what
# happened. torch reads the level when it is first imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
