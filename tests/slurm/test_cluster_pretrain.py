"""Pretraining on two hosts of a SLURM ends as it does in two processes of one machine, bit for bit."""
from tests.slurm.jobs import Job, assert_same_run, in_two_processes, pretrain

TORCHRUN = """torchrun --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=node1:29400
    --rdzv-id=toy""".split()


def test_two_hosts_by_srun(cluster, pictures, tmp_path):
    """The command as users type it, with a real network; one epoch."""
    def command(name):
        (tmp_path / name).mkdir()
        return pretrain(pictures, tmp_path / name, "--epochs", 1, main="pretrain/main.py")
    in_two_processes(*command("alone"))
    Job(cluster, tmp_path, ["srun", "python", *command("run")]).wait()
    assert_same_run(tmp_path / "run", tmp_path / "alone")


def test_two_hosts_by_torchrun(cluster, pictures, alone, tmp_path):
    Job(cluster, tmp_path, ["srun", *TORCHRUN, *pretrain(pictures, tmp_path)]).wait()
    assert_same_run(tmp_path, alone)
