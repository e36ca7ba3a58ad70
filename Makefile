PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
# A file's tests share fixtures, such as a model that is trained for them; few workers, each loads torch.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test lint format clean

# Base dependencies only. scikit-image comes without its own dependencies: only its photographs are used.
demo:
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet .
	$(DEMO)/bin/pip install --quiet --no-deps scikit-image
	$(DEMO)/bin/python benchmarks/demo.py

test: $(TEST)/.installed lint
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest $(WORKERS)

lint: $(TEST)/.installed
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports

format: $(TEST)/.installed
	$(TEST)/bin/ruff check --fix .
	$(TEST)/bin/ruff format .

$(TEST)/.installed: pyproject.toml constraints.txt
	test -x $(TEST)/bin/python || $(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install --quiet --constraint constraints.txt --editable '.[train,bench,fast,jxl,test]'
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) demo build dist
