# `make demo` trains a first model; `make test` proves that everything works. CONTRIBUTING.md has the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What `make lock` holds fast; all else is the newest that goes with them.
PINS := torch==2.13.0 ray==2.60.0 mlflow==3.17.2 webdataset==1.0.2 prometheus-client==0.26.0 fsspec==2026.9.0

.PHONY: demo demo-latent test chaos check format bench monitoring mlflow lock clean

demo: $(VENV)/.installed
	@$(BIN)/python -m ray_diffusion.train digits
	@echo && $(BIN)/python -m ray_diffusion.evaluate runs/digits
	@echo && $(BIN)/python -m ray_diffusion.sample runs/digits num_images=100 out=runs/digits/samples/grid.png
	@echo && echo "look at    runs/digits/samples/grid.png and runs/digits/loss.png" \
	  && echo "browse     make mlflow, then open 'http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning'" \
	  && echo "change     $(BIN)/python -m ray_diffusion.train run.name=linear diffusion.beta_schedule=linear" \
	  && echo "all keys   $(BIN)/python -m ray_diffusion.train --help"

demo-latent: $(VENV)/.installed
	@$(BIN)/python -m ray_diffusion.train autoencoder-shapes
	@echo && $(BIN)/python -m ray_diffusion.encode source=builtin:shapes image_size=32 \
	  codec=runs/autoencoder-shapes out=datasets/latent-shapes
	@echo && $(BIN)/python -m ray_diffusion.train latent-shapes
	@echo && $(BIN)/python -m ray_diffusion.evaluate runs/latent-shapes
	@echo && $(BIN)/python -m ray_diffusion.sample runs/latent-shapes num_images=60 out=runs/latent-shapes/samples/grid.png
	@echo && echo "look at    runs/latent-shapes/samples/grid.png, and runs/autoencoder-shapes/samples for reconstructions"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not chaos"

chaos: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m chaos

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/order.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/tracking.py
	$(BIN)/python benchmarks/latent.py

# Alert rules and a dashboard, from the definitions of the metrics.
monitoring: $(VENV)/.installed
	$(BIN)/python -m ray_diffusion.tracking.monitoring k8s/components/monitoring

mlflow: $(VENV)/.installed
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server \
	  --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port 5000 --workers 1

# Resolves everything anew in an empty environment and writes down what came of it.
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install -qq $(PINS) ".[s3,hf,bayes,diffusers,dev]"
	echo "# Exact versions of everything; made by \`make lock\`." > constraints.txt
	build/lock/bin/pip freeze --exclude ray-diffusion | sed 's/+cpu$$//' >> constraints.txt
	rm -rf build/lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV): a few minutes the first time"
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e ".[s3,dev]"
	@touch $@
