# Commands for newcomers, operators and pipelines. `make` alone lists them; README.md gives them without make.

VENV ?= .venv
BIN := $(VENV)/bin
# The first Python that is 3.11 or newer and can create environments, or else one that is new enough. Choose another with
# PYTHON=…
PYTHON ?= $(shell for needed in 'import sys, venv, ensurepip' 'import sys'; do \
	for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c "$$needed; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo "$$p" && exit; done; done)
UV := $(shell command -v uv 2>/dev/null)
PORT ?=
PARAMETERS := $(if $(PORT),-p port=$(PORT))

.DEFAULT_GOAL := help
.PHONY: help run stop status list lab modal test lint bench notebooks lock clean FORCE

help:  ## list the targets
	@echo "A private Python package index, run from notebooks. Start with:  make run"
	@echo
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'
	@echo
	@echo "PORT=8000 make run  moves the index to that port and lists the users to tell;  PYTHON=… and VENV=… choose an interpreter and a folder"

run: $(VENV)/.run  ## install what is needed, provision an index on this machine, add a user, run a smoke test
	@$(BIN)/runbook up $(PARAMETERS)

stop:  ## stop the index; packages, users and secrets stay
	@$(call INSTALLED,$(BIN)/runbook stop)

status:  ## show what runs, where, and for whom
	@$(call INSTALLED,$(BIN)/runbook status)

list:  ## list the notebooks with their parameters
	@$(call INSTALLED,$(BIN)/runbook list)

lab: $(VENV)/.lab  ## open copies of the notebooks in JupyterLab and record the run (ARGS="--no-browser --port 8889" sets options)
	@$(BIN)/runbook open -- $(ARGS)

modal: $(VENV)/.modal  ## install what the target modal needs

test: $(VENV)/.test  ## run every test (ARGS="tests/index -k upload" selects)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.test  ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.test  ## compare the index with its peers (installs them; SCALE=full takes more than an hour)
	@$(BIN)/runbook run 10_benchmark -p scale=$(or $(SCALE),quick)

notebooks: $(VENV)/.test  ## run the notebooks, store their outputs, and generate the files made from them
	@$(BIN)/python -m ops.runbook.store

lock:  ## resolve the dependencies into the requirements files (needs uv)
	$(COMPILE) pyproject.toml -o requirements.txt $(UPGRADE)
	$(COMPILE) -c requirements.txt deployments/requirements.in -o deployments/requirements.txt
	$(COMPILE) tests/project_managers.in -o tests/project_managers.txt $(UPGRADE)
	@for extra in test lab modal; do $(additions) || exit 1; done
	$(COMPILE) -c requirements-test.txt -c deployments/requirements.txt deployments/requirements-attestations.in \
		-o deployments/requirements-attestations.all
	@$(NEW_PINS) deployments/requirements.txt deployments/requirements-attestations.all > deployments/requirements-attestations.txt
	@rm deployments/requirements-attestations.all

# Writes what an extra needs beyond requirements.txt, so that each pin appears once. A package that the extra needs on more
# platforms appears in both. The copy keeps the pins of the last `make lock`.
additions = cp requirements-$$extra.txt requirements-$$extra.all && \
	$(COMPILE) -c requirements.txt --extra $$extra pyproject.toml -o requirements-$$extra.all && \
	$(NEW_PINS) first="-r requirements.txt" requirements.txt requirements-$$extra.all > requirements-$$extra.txt && \
	rm requirements-$$extra.all

# Prints the second of two requirements files without the pins of the first one.
NEW_PINS = awk 'NR == FNR { base[$$0]; next } /^\#/ { print; next } !start++ && first { print first } \
	/^[^ ]/ { known = $$0 in base } !known'

# botocore, on which moto depends, allows no newer python-dateutil. Not in pyproject.toml: uv would hold the installation to
# it too, and refuses a constraint without a hash there.
COMPILE := echo "python-dateutil<3" | uv pip compile -c - --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-annotate --custom-compile-command "make lock"

clean: stop  ## stop the index and remove what was installed; packages, users and secrets stay
	@if [ -e "$(VENV)/$(MADE)" ]; then rm -rf "$(VENV)"; \
	elif [ -e "$(VENV)" ]; then echo "$(VENV) was not made by this Makefile: left alone." >&2; exit 1; fi

# stop, status and list install nothing, so that they never replace an environment.
INSTALLED = if [ -z "$(UNUSABLE)" ] && [ -x "$(BIN)/runbook" ]; then $1; \
	else echo "There is no working installation in $(VENV): run 'make run' first."; fi

# --- installing -------------------------------------------------------------------------------------------------
# Exact versions, checked by hash; then this clone, editable. With uv if it is installed, else with pip.

# Marks an environment that this Makefile created, with the folder of the clone; it removes no other folder.
MADE := .made-by-make

# A moved clone, or a removed or upgraded interpreter, leaves a broken environment behind. Only the targets that install
# replace it.
UNUSABLE := $(shell [ ! -e "$(VENV)" ] || { \
	{ [ ! -s "$(VENV)/$(MADE)" ] || [ "$$(cat "$(VENV)/$(MADE)")" = "$$(pwd -P)" ]; } && \
	"$(BIN)/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; } || echo FORCE)

ifneq ($(UV),)
MAKE_VENV = uv venv --quiet --allow-existing $(if $(PYTHON),--python "$(PYTHON)") $(VENV)
INSTALL = uv pip install --quiet --python $(BIN)/python
else
MAKE_VENV = $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

$(BIN)/python: $(UNUSABLE)
	@[ -w "$$(dirname "$(VENV)")" ] || { echo "$$(cd "$$(dirname "$(VENV)")" && pwd) is not writable by $$(id -un):" \
		"clone the repository into a folder of your own, or run as the owner of this one." >&2; exit 1; }
	@if [ -z "$(PYTHON)$(UV)" ]; then \
		echo "Python 3.11 or newer was not found. Install it, or name it: make PYTHON=/path/to/python3.12 …" >&2; exit 1; fi
	@if [ -e "$(VENV)/$(MADE)" ]; then rm -rf "$(VENV)"; \
	elif [ -n "$$(ls -A "$(VENV)" 2>/dev/null)" ]; then \
		echo "$(VENV) is not an environment of Python 3.11 or newer, and was not made here: left alone." \
			"Choose another folder with VENV=…, or remove this one." >&2; exit 1; fi
	@echo "Creating a virtual environment in $(VENV) with $(if $(PYTHON),$(PYTHON),uv's Python) …"
	@mkdir -p "$(VENV)" && pwd -P > "$(VENV)/$(MADE)"
	@$(MAKE_VENV) || { rm -rf "$(VENV)"; $(NO_VENV); exit 1; }

# On Debian and Ubuntu, `python3 -m venv` needs a package of its own.
NO_VENV = echo "The environment could not be created. Install what '$(PYTHON) -m venv' needs (Debian and Ubuntu:" \
	"apt install python3-venv), or uv, and run make again." >&2

$(VENV)/.run: requirements.txt pyproject.toml $(UNUSABLE) | $(BIN)/python
	@echo "Installing the runbook and the index into $(VENV) …"
	@$(INSTALL) --require-hashes -r requirements.txt
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.run
	@echo "Installing what the tests need into $(VENV) …"
	@$(INSTALL) --require-hashes -r requirements-test.txt
	@touch $@

$(VENV)/.modal: requirements-modal.txt $(VENV)/.run
	@echo "Installing Modal's client into $(VENV) …"
	@$(INSTALL) --require-hashes -r requirements-modal.txt
	@touch $@

$(VENV)/.lab: requirements-lab.txt $(VENV)/.run
	@echo "Installing JupyterLab into $(VENV) …"
	@$(INSTALL) --require-hashes -r requirements-lab.txt
	@touch $@
