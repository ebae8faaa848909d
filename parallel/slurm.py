"""What SLURM says of this process, and what is asked of SLURM."""
import os
import re


def adopt_slurm() -> None:
    """Translate a step of a SLURM job (`srun`) into torchrun's variables, which say which process this is.

    It does nothing under torchrun, in a step of one task, and in a batch script outside srun, where
    SLURM_NTASKS may be set although nobody has started the tasks. The meeting point is MASTER_ADDR and
    MASTER_PORT if given, else the step's first node and a port from 15000 to 34999 that depends on the
    numbers of job and step. Two jobs on one node rarely get the same port; if they do, set MASTER_PORT.
    """
    environment = os.environ
    step = "SLURM_STEP_NUM_TASKS" in environment or "SLURM_STEP_ID" in environment
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", 1)))
    if "RANK" in environment or not step or tasks < 2 or "SLURM_PROCID" not in environment:
        return
    import torch

    local = int(environment.get("SLURM_LOCALID", 0))
    if torch.cuda.device_count() == 1:  # --gpus-per-task=1: each task sees its own GPU as number 0
        local = 0
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "localhost"))
    job, number = (int(environment.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    environment.setdefault("MASTER_ADDR", first_node(nodes))
    environment.setdefault("MASTER_PORT", str(15000 + (job * 10 + number) % 20000))
    environment.update(RANK=environment["SLURM_PROCID"], WORLD_SIZE=str(tasks), LOCAL_RANK=str(local))


def first_node(nodes: str) -> str:
    """Return the first node, gpu003, of SLURM's short form of a list, such as gpu[003-010,12],cpu7."""
    first = re.match(r"(?:[^,\[]|\[[^]]*\])+", nodes.strip())
    if not first:
        raise ValueError(f"SLURM's list of nodes cannot be read, found {nodes!r}; set MASTER_ADDR")
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first[0])


def this_job() -> dict[str, str]:
    """Return what names this process's job and stays the same if SLURM or torchrun starts it again."""
    job = {}
    if "SLURM_JOB_ID" in os.environ:
        job["slurm"] = os.environ["SLURM_JOB_ID"]
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run:  # "none" unless --rdzv-id chose it; then it is the agent's process that stays
        agent = f"process {os.getppid()} on {os.uname().nodename}"
        job["torchrun"] = agent if run == "none" else run
    return job


def started_again(before: object) -> bool:
    """Return whether this is another start of the job that left this_job() `before`: after `scontrol requeue`
    or a preemption, or if torchrun has restarted its processes, which it does not always count."""
    job = this_job()
    if not isinstance(before, dict):
        return False
    requeued = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0 and before.get("slurm") == job.get("slurm")
    return requeued or "torchrun" in job and before.get("torchrun") == job["torchrun"]
