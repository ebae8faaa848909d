"""A toy scheduler: sbatch starts jobs at once on this machine, and squeue says how they ended."""
import sys

SBATCH = """#!{python}
import os, pathlib, re, subprocess, sys
folder, script = pathlib.Path({folder!r}), sys.argv[1]
text = open(script).read()
if "--partition=nowhere" in text:
    sys.exit("sbatch: error: invalid partition specified: nowhere\\n"
             "sbatch: error: Batch job submission failed")
number = len(list(folder.glob("job-*")))
(folder / f"job-{{number}}").touch()
array = re.search("--array=0-(\\\\d+)", text)
for task in range(int(array[1]) + 1) if array else [None]:
    name = str(number) if task is None else f"{{number}}_{{task}}"
    more = {{}} if task is None else {{"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}}
    state = folder / f"state-{{name}}"
    state.write_text(f"{{name}} RUNNING 0\\n")
    then = f"word=$([ $code = 0 ] && echo COMPLETED || echo FAILED); echo {{name}} $word $((code * 256))"
    subprocess.Popen(["bash", "-c", f"bash {{script}}; code=$?; {{then}} > {{state}}"],
                     env=os.environ | more | {{"SLURM_JOB_ID": str(number), "SLURM_PROCID": "0"}},
                     start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)
print("Submitted batch job", number)
"""
SRUN = """#!{python}
import os, sys
output = sys.argv[sys.argv.index("--output") + 1]
for tag, name in (("%A", "SLURM_ARRAY_JOB_ID"), ("%a", "SLURM_ARRAY_TASK_ID"), ("%j", "SLURM_JOB_ID")):
    output = output.replace(tag, os.environ.get(name, ""))
log = os.open(output.replace("%t", "0"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1), os.dup2(log, 2)
command = next(number for number, word in enumerate(sys.argv) if number and os.access(word, os.X_OK)
               and os.path.isfile(word))
os.execv(sys.argv[command], sys.argv[command:])
"""
SQUEUE = "#!/bin/sh\ncat {folder}/state-*\n"


def write_scheduler(folder):
    """Write the commands into a folder, which goes first on the PATH."""
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE)):
        (folder / name).write_text(text.format(python=sys.executable, folder=str(folder)))
        (folder / name).chmod(0o755)
