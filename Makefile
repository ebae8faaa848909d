# One verb, one command; `make` alone lists them. PYTHON names the interpreter that .venv is made from.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
LOG := $(VENV)/setup.log
FAIL := >&2; exit 2
# pip's warnings are in the log; its errors come here, and a few lines of them to the terminal.
PIP = $(PY) -m pip install -q --progress-bar off --disable-pip-version-check --log $(LOG) -c constraints.txt
ERRORS := $(VENV)/setup.errors

# A line with the seconds that a command takes: $(call phase,what,command,what was expected).
define phase
@printf '%s' "set-up $(1) ... "; begin=$$(date +%s); \
{ $(2); } 2> $(ERRORS) && echo "$$(($$(date +%s) - begin)) s" || { echo failed; \
    { grep -i error $(ERRORS) || cat $(ERRORS); } | tail -n 5 | cut -c1-300 >&2; \
    echo "error: expected $(strip $(3)); see $(LOG), then run the same command again" $(FAIL); }
endef

.PHONY: help setup demo test cluster-test cluster-packages pretrain transfer tables report bench gpu doctor \
	faults docs docs-check

help:
	@echo "make setup                          .venv with everything in it (about 3 minutes, 5.5 GB, once)"
	@echo "make demo                           the whole suite on embedded data, from images to tables"
	@echo "make test [ARGS=...]                the tests; ARGS goes to pytest"
	@echo "make faults                         hostile and broken input, kills, limits: a table in build/faults.md"
	@echo "make cluster-test [ARGS=...]        the tests on a SLURM of their own; as root on Debian, installs it"
	@echo "make pretrain DATA=... [ARGS=...]   Barlow Twins over all GPUs; ARGS goes to pretrain/main.py"
	@echo "make transfer WEIGHTS=... [TASK=...] [DATA=...] [ARGS=...]"
	@echo "                                    one benchmark, or all whose data is found"
	@echo "make tables                         rewrite results/tables and the tables in the documents"
	@echo "make report [ARGS=...]              report.html: tables, records, curves, pictures, in one file"
	@echo "make bench [ARGS=...]               speed and memory, as ratios to plain formulations, into"
	@echo "                                    results/tables/speed.md; ARGS: some benchmarks' names"
	@echo "make gpu [ARGS=...]                 everything proven and measured on one GPU, in 8 minutes"
	@echo "make docs                           README and docs/ as a site with search, in build/site"
	@echo "make docs-check [ARGS=...]          builds it, and runs the commands of all pages in miniature"
	@echo "make doctor                         what is installed, which data is found, what can run"

setup: $(READY)

# A half-made .venv has no .ready and is completed; a change of what is to be installed renews it.
$(READY): pyproject.toml constraints.txt tools/detectron2_wheel.py
	@command -v $(PYTHON) > /dev/null || { \
	    echo "error: expected Python 3.10 or newer, found no command '$(PYTHON)';" \
	         "name one: make PYTHON=/path/to/python3" $(FAIL); }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "error: expected Python 3.10 or newer, found $$($(PYTHON) --version 2>&1);" \
	         "name another: make PYTHON=/path/to/python3" $(FAIL); }
	@$(PY) -m pip --version > /dev/null 2>&1 || { \
	    printf '%s' "set-up 1/3: $(VENV) with $$($(PYTHON) --version) ... "; begin=$$(date +%s); \
	    $(PYTHON) -m venv --clear $(VENV) && echo "$$(($$(date +%s) - begin)) s"; } || { \
	    echo "error: expected Python's modules venv and ensurepip to make $(VENV), they failed;" \
	         "on Debian and Ubuntu install python3-venv" $(FAIL); }
	$(call phase,2/3: the tested versions (about 3 minutes and 5.5 GB the first time),\
	    $(PIP) setuptools wheel -e '.[test]',pip to install them; it failed (network? index? disk space?))
	$(call phase,3/3: Detectron2,$(PY) tools/detectron2_wheel.py --install > /dev/null,\
	    tools/detectron2_wheel.py to install it; it failed)
	@# Tests compare our losses with lightly's, and load weights by timm; both work without what they name.
	@$(PIP) --no-deps lightly timm 2> /dev/null || \
	    echo "lightly and timm cannot be installed here; the tests that need them are skipped"
	@touch $@
	@echo "set-up done; log: $(LOG)"

# The site's packages are a few megabytes that only these two verbs need.
DOCS := $(VENV)/.docs
$(DOCS): $(READY)
	$(call phase,of the site,$(PIP) -e '.[docs]',pip to install Sphinx and its theme; it failed (network? index?))
	@touch $@

docs: $(DOCS)
	@$(PY) -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site && echo "build/site/index.html"

docs-check: docs
	@$(PY) -m tools.docs_check $(ARGS)

demo: setup
	@$(PY) -m tools.demo

# In CI this includes the tests on a SLURM, if its packages can be installed.
test: setup $(if $(filter true,$(CI)),cluster-packages)
	@$(PY) -m pytest $(ARGS)

faults: setup
	@$(PY) -m pytest tests/faults --long --faults-table build/faults.md $(ARGS)

cluster-test: setup cluster-packages
	@$(PY) -m pytest --cluster tests/slurm $(ARGS)

# The tests name what cannot be installed here. The packages stay; the cluster itself leaves nothing.
cluster-packages:
	@PATH=$$PATH:/usr/sbin:/sbin; for command in slurmctld slurmd munged ip; do \
	    command -v $$command > /dev/null || missing="$$command $$missing"; done; \
	test -z "$$missing" -o $$(id -u) != 0 || { \
	    echo "installing slurm-wlm, munge and iproute2, found no $$missing"; \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes \
	        --no-install-recommends slurm-wlm munge iproute2 > /dev/null; } || true

pretrain: setup
	@test -n "$(DATA)" || { \
	    echo "error: expected DATA, the folder of train/: make pretrain DATA=/data/imagenet" $(FAIL); }
	@processes=$$($(PY) -c 'import torch; print(max(1, torch.cuda.device_count()))') && \
	    $(PY) -m torch.distributed.run --standalone --nproc-per-node=$$processes \
	        pretrain/main.py "$(DATA)" $(ARGS)

TASK ?= all
transfer: setup
	@test -n "$(WEIGHTS)" || { \
	    echo "error: expected WEIGHTS, a ResNet: make transfer WEIGHTS=resnet50.pth" $(FAIL); }
	@$(PY) transfer/run.py --task $(TASK) --weights "$(WEIGHTS)" $(if $(DATA),--data "$(DATA)") $(ARGS)

tables: setup
	@$(PY) results/make.py

report: setup
	@$(PY) results/report.py $(ARGS)

bench: setup
	@$(PY) -m benchmarks $(ARGS)

gpu: setup
	@$(PY) tools/gpu.py $(ARGS)

doctor: setup
	@$(PY) transfer/doctor.py
