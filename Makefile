# Every target sets itself up; nothing but Python 3.11 and make is needed.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO_DATASET := synthetic:trajectories=40,turns=8,isl=9000,osl=80~400,tool_s=0.4~1.5,seed=1

PEERS ?= .peers
# What stands beside ours: each in an environment of its own, and the newest that there is.
PACKAGES_loop := aiohttp uvloop
PACKAGES_aiperf := aiperf
PACKAGES_guidellm := guidellm

.PHONY: help demo test nightly check audit dist sbom bench bench-peers clean
help:
	@echo "make demo   find the capacity of the embedded simulator (about 2 minutes), write a report"
	@echo "make test   run all tests, real servers and browser included"
	@echo "make nightly  install and measure vLLM, LiteLLM and llama.cpp, count by real tokenizers (3.4 GB)"
	@echo "make check  format, lint, types, layers, unsafe calls, known vulnerabilities"
	@echo "make audit  known vulnerabilities of the pinned packages alone"
	@echo "make dist   wheel, sdist, and the SBOM of what they bring (CycloneDX), in dist/"
	@echo "make bench  measure the client against a server that logs the truth, and against one in C"
	@echo "make bench-peers  have aiperf and guidellm do the same work (downloads both)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .[test]
	@touch $@ $(VENV)/.demo

$(VENV)/.check: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .[test,check]
	@touch $@ $(VENV)/.test $(VENV)/.demo

$(VENV)/.release: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .[release]
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/python -m pytest suites/ --endpoint=sim: --model=gpt-oss-120b --agentperf-mode=smoke \
	  --dataset='$(DEMO_DATASET)' --html=report.html --self-contained-html
	@echo "report: $(CURDIR)/report.html"

test: $(VENV)/.test
	$(BIN)/python -m coverage erase
	$(BIN)/python -m tools.halves
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --show-missing

nightly: $(VENV)/.test
	$(BIN)/python -m pytest -m nightly tests/nightly

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml pytest_agentperf
	$(BIN)/python -m tools.audit

audit: $(VENV)/.check
	$(BIN)/python -m tools.audit

dist: $(VENV)/.release sbom
	$(BIN)/python -m build --outdir dist

# An environment with what users get, and nothing else: not even pip.
sbom: $(VENV)/.release
	$(PYTHON) -m venv --clear --without-pip build/shipped
	$(BIN)/python -m pip --python build/shipped/bin/python install --quiet -c constraints.txt .
	@mkdir -p dist
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file dist/sbom.cdx.json \
	  build/shipped/bin/python

$(PEERS)/%/.done:
	$(PYTHON) -m venv $(PEERS)/$*
	$(PEERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES_$*)
	@touch $@

bench: $(VENV)/.test $(PEERS)/loop/.done
	$(BIN)/python -m benchmarks.timing
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.client.agents --write
	$(BIN)/python -m benchmarks.client --aiohttp-python $(PEERS)/loop/bin/python

bench-peers: $(VENV)/.test $(PEERS)/aiperf/.done $(PEERS)/guidellm/.done
	$(BIN)/python -m benchmarks.client --only --peers --write \
	  --aiperf $(abspath $(PEERS))/aiperf/bin/aiperf --guidellm $(abspath $(PEERS))/guidellm/bin/guidellm

clean:
	rm -rf $(VENV) $(PEERS) build dist .coverage* .pytest_cache .ruff_cache agentperf-results report.html
