# Everything runs inside .venv; the only target that may touch the system is `data`.
PYTHON ?= python3
BIN := .venv/bin
# Threads that wait by spinning make a busy machine ten times slower.
export OMP_WAIT_POLICY := PASSIVE
FIGURES := $(CURDIR)/build/test/figures

.PHONY: reproduce check test test-all e2e browser docs venv data evidence lint lock clean

reproduce: venv data
	$(BIN)/latentgeo reproduce --profile quick --keep-going --jobs 2

# For the inner loop, in less than a minute: lint and the quick tests.
check: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not thorough" tests

test: export OMP_NUM_THREADS := 1
test: venv data lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --doctest-modules
	LATENTGEO_FIGURES=$(FIGURES) $(BIN)/python -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env notebooks

# Timings are taken alone, where threads that spin are faster.
test-all: test
	OMP_WAIT_POLICY=ACTIVE $(BIN)/python -m pytest -m slow

# Pages and notebooks in JupyterLab as a reader sees them, in a browser, clicked; screenshots go to build/e2e.
e2e: venv data browser
	$(BIN)/python -m pytest -v tests/e2e/pages.py tests/e2e/explorer.py tests/e2e/jupyterlab.py

# Asks the system for a browser only where there is none, as root, with apt.
browser: venv
	$(BIN)/python -m tests.e2e.browser || { [ "$$(id -u)" = 0 ] && apt-get install --yes chromium; }

# The documentation site, into build/docs: open build/docs/index.html. Fails at a broken link.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file .site/mkdocs.yml

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

venv: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "latentgeo needs Python 3.11 or newer, got " + v + "; call make PYTHON=python3.11")'
	@echo 'setting up .venv: two gigabytes, some minutes'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	touch $@

data: venv
	$(BIN)/latentgeo data fashion_mnist

# Draw the committed figures, write the committed results and the table of evidence from them, and show the outputs in the
# notebooks: a day or two where nothing is trained yet, hours where the run store has it. make evidence ONLY="07 08": these.
evidence: venv data
	LATENTGEO_FIGURES=$(CURDIR)/figures LATENTGEO_RESULTS=$(CURDIR)/data/results $(BIN)/latentgeo reproduce --profile evidence --keep-going --output build/evidence $(if $(ONLY),--only $(ONLY))
	$(BIN)/latentgeo report --in-place --output build/evidence

# Pin again what a fresh environment resolves to.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0
	build/lock/bin/python -m pip install --quiet ".[paper,notebooks,test,benchmark,singlecell,images,explorer,e2e,docs]"
	build/lock/bin/python -m pip freeze --exclude latentgeo | sed 's/^\(torch==[^+]*\)+.*/\1/' > requirements.lock

clean:
	rm -rf build .venv *.egg-info
