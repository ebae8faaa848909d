"""The parts of tools/gpu.py: job.py what a phase is given and leaves, pack.py what travels to the machine,
report.py the tables; prove.py step.py detect.py cifar.py, the phases."""
