# make lab    set up .venv once, then open the chapter in JupyterLab
# make test   set up .venv once, then check everything
PYTHON ?= python3
D2L = d2l==1.0.3
BIN = .venv/bin
READY = .venv/.ready
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check

.PHONY: lab test notebooks site drawings badges format benchmark clean

# a notebook that is not trusted shows no figures
lab: $(READY)
	$(BIN)/jupyter trust chapter_large_pretraining/*.ipynb
	$(BIN)/jupyter lab chapter_large_pretraining/index.ipynb

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

# run every notebook from a fresh kernel and keep its outputs
notebooks: $(READY)
	$(BIN)/python tests/execute.py
	$(BIN)/python img/draw.py
	$(BIN)/python tests/execute.py chapter_large_pretraining/index.ipynb

# the chapter as a web site, from the stored outputs
site: $(READY)
	$(BIN)/sphinx-build -q -W --keep-going -c site -d build/doctrees \
	  chapter_large_pretraining build/site
	@echo 'Open build/site/index.html'

# draw the pictures of img/ from the masks
drawings: $(READY)
	$(BIN)/python img/draw.py

# make badges REPO=owner/name
badges: $(READY)
	$(BIN)/python tests/badges.py $(REPO)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(READY)
	$(BIN)/python tests/benchmark.py

clean:
	rm -rf .venv build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# the stamp comes last, so that an interrupted set-up is done again
$(READY): requirements.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit( \
	None if (3, 11) <= sys.version_info[:2] <= (3, 13) else \
	"Python 3.11 to 3.13 is needed, but $(PYTHON) is %s: try for instance " \
	"make PYTHON=python3.11" % sys.version.split()[0])'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo \
	'$(PYTHON) has no venv module (Debian, Ubuntu: apt install python3-venv)' \
	>&2; exit 1; }
	@echo 'Setting up .venv: once, a few minutes'
	@$(PYTHON) -m venv .venv
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps $(D2L)
	@touch $@
