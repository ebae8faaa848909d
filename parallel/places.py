"""Where the suite's own files are: in its checkout, or, where it is installed, below the current folder."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the folder of our packages: a checkout, or site-packages
CHECKOUT = (ROOT / "pyproject.toml").is_file()
HOME = ROOT if CHECKOUT else Path()  # nothing is written beside installed packages
RUNS = HOME / "results" / "runs"  # the records
TABLES = "python results/make.py" if CHECKOUT else "barlow-tables"  # the command, for messages
