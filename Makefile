# Two commands do everything on a machine with Python and make: `make demo` and `make test`.
# Each makes its own virtual environment; a second run installs only what pyproject.toml changed.

PYTHON ?= python3
DEMO_VENV := .venv-demo
DEV_VENV := .venv
LINKS := build/types/vitedge

# openvino-model-api pins opencv-python-headless 4, which our extras do not; a test opens bundles with it.
MODEL_API := openvino-model-api==0.4.7
# What tests hold ours against, kept out of the environment: an OpenCV with windows; NVIDIA's bindings of each TensorRT that vitedge claims, whose
# libraries are not on PyPI, and the grammar of Triton's configurations, whose package wants an older protobuf.
REFERENCES := build/references
REFERENCE_PACKAGES := tensorrt-cu12-bindings==10.3.0 tensorrt-cu12-bindings==10.13.3.9 tensorrt-cu13-bindings==11.4.0.106 \
	tritonclient==2.73.0 opencv-python==5.0.0.93

ALONE = $(shell grep -rl --include="test_*.py" "pytest.mark.alone" tests)

.PHONY: help demo picture test test-long references lint ruff types rooms docs bench clean

help:
	@echo "make demo     digits before a synthetic camera, and DeiT-Tiny, measured; no download; open demo-out/index.html"
	@echo "make test     lint, types, import directions and the tests"
	@echo "make lint     the same without the tests"
	@echo "make test-long  the matrices of which 'make test' runs one case of each kind"
	@echo "make docs     the documentation site, in build/site"
	@echo "make bench    measure on this machine and write docs/benchmarks.md and docs/quantization.md; needs the tests' data"
	@echo "make picture  draw docs/images/demo.png anew, from the demo"
	@echo "make clean    remove environments, caches and build outputs"

demo: $(DEMO_VENV)/.installed
	rm -rf demo-out
	$(DEMO_VENV)/bin/vitedge demo -o demo-out

picture: demo
	$(DEMO_VENV)/bin/python docs/draw_demo.py demo-out

# Files go to as many workers as there are cores, up to four, the slowest first (tests/conftest.py). Each worker computes
# in one thread, because more threads than cores wait for each other. Compiled modules are kept for the next run.
# A test that native code holds beyond every limit ends its worker, with the stacks of its threads; a worker that ends
# so, or crashes, ends the run, because pytest-xdist can wait for ever for the rest of its files.
# What sends signals to its own process runs by itself.
WITH_WORKERS := OMP_NUM_THREADS=1 $(DEV_VENV)/bin/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder \
	--max-worker-restart 0 -o faulthandler_timeout=1260 -o faulthandler_exit_on_timeout=true

test test-long: export PYTHONDONTWRITEBYTECODE =
test: lint references
	$(WITH_WORKERS) --dist loadfile -m "not alone and not long" $(PYTEST_ARGS)
	$(DEV_VENV)/bin/python -m pytest -m alone $(or $(PYTEST_ARGS),$(ALONE)) || [ $$? = 5 ] # 5: none of these was chosen

# Only a few files have such tests, so that whole files would leave workers idle.
test-long: $(DEV_VENV)/.installed references
	$(WITH_WORKERS) --dist worksteal -m long $(PYTEST_ARGS)

references: $(REFERENCES)/.installed

lint: ruff types rooms docs

ruff: $(DEV_VENV)/.installed
	$(DEV_VENV)/bin/ruff check .
	$(DEV_VENV)/bin/ruff format --check .

types: $(DEV_VENV)/.installed links
	$(DEV_VENV)/bin/mypy

rooms: $(DEV_VENV)/.installed links
	cd build/types && ../../$(DEV_VENV)/bin/lint-imports --config ../../pyproject.toml

# Help is as wide as the pages of the site; links into nowhere are errors.
docs: $(DEV_VENV)/.installed links
	COLUMNS=100 NO_MKDOCS_2_WARNING=1 $(DEV_VENV)/bin/mkdocs build --quiet

bench: $(DEV_VENV)/.installed
	$(DEV_VENV)/bin/python benchmarks/report.py $(BENCH_ARGS)
	$(DEV_VENV)/bin/python benchmarks/quantization.py --page docs/quantization.md
	$(DEV_VENV)/bin/python docs/draw_latency.py

# Type checkers and import-linter do not follow the editable install: they read the package through these links.
.PHONY: links
links:
	@rm -rf $(LINKS) && mkdir -p $(LINKS)
	@ln -sfn "$(CURDIR)"/vitedge/* "$(CURDIR)"/calib "$(CURDIR)"/converters "$(CURDIR)"/runtime $(LINKS)/

clean:
	rm -rf $(DEMO_VENV) $(DEV_VENV) build dist demo-out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find vitedge calib converters runtime tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

$(DEMO_VENV)/.installed: pyproject.toml
	$(call make_venv,$(DEMO_VENV))
	$(DEMO_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[demo]"
	touch $@

$(DEV_VENV)/.installed: pyproject.toml Makefile
	$(call make_venv,$(DEV_VENV))
	$(DEV_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(DEV_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$(MODEL_API)"
	touch $@

$(REFERENCES)/.installed: Makefile $(DEV_VENV)/.installed
	rm -rf $(REFERENCES) && mkdir -p $(REFERENCES)
	for each in $(REFERENCE_PACKAGES); do \
		$(DEV_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
			--target "$(REFERENCES)/$$each" "$$each" || exit 0; \
	done && touch $@

define make_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: vitedge needs Python 3.10 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`. fix: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(1)/bin/pip || $(PYTHON) -m venv $(1) \
		|| { rm -rf $(1); echo "error: $(PYTHON) cannot make a virtual environment. fix: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(1) (some GB with PyTorch: minutes the first time)"
endef
