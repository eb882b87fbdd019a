# The commands of llmchat. Each makes ready what it needs; `make help` lists them.
#
# Settings come from the environment, from .env or from the command line: make run PORT=8123

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test soak check lint types format bench requirements clean

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
UV := uv==0.13.8
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## List the commands
	@echo "make run | test | …, with settings as in: make run PORT=8123"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1	\2/p' Makefile | expand -t 18

run: $(VENV)/.run ## Make everything ready and serve the site at PORT (8000) of HOST
	@$(PY) manage.py setup
	@exec $(PY) manage.py serve

# ---- Packages
# Which Python there is, and whether it can make virtual environments: Debian packs that apart.
$(PY):
	@found= lacking=; \
	for python in $(PYTHONS); do \
		$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		if $$python -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; \
		lacking=$${lacking:-$$python}; \
	done; \
	if [ -n "$$found" ]; then \
		echo "Making $(VENV) with $$($$found --version)"; \
		$$found -m venv --clear $(VENV); \
	elif [ -n "$$lacking" ]; then \
		version=$$($$lacking -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "$$lacking cannot make virtual environments: it lacks ensurepip." >&2; \
		echo "On Debian and Ubuntu: apt-get install python$$version-venv" >&2; \
		exit 1; \
	else \
		echo "llmchat needs Python 3.11 or newer, and there is none among: $(PYTHONS)" >&2; \
		echo "Install one, or say where it is: make run PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi

install = echo "Installing the packages of $(1)" \
	&& { $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; } \
	&& $(PY) -m pip install --quiet --no-input --require-hashes -r $(1)

$(VENV)/.run: requirements.txt | $(PY)
	@$(call install,$<)
	@touch $@

# These include the packages of requirements.txt.
$(VENV)/.dev: requirements-dev.txt requirements.txt | $(PY)
	@$(call install,$<)
	@touch $(VENV)/.run $@

$(BIN)/uv: | $(PY)
	@$(PY) -m pip install --quiet $(UV)

pin = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --no-emit-index-url $(ARGS)

requirements: $(BIN)/uv ## Pin what pyproject.toml asks for; ARGS=--upgrade for the newest
	@$(pin) --output-file requirements.txt
	@$(pin) --extra dev --constraints requirements.txt --output-file requirements-dev.txt

# ---- Tests
TESTS := $(or $(TESTS),tests)
browser_tests := $(filter tests/browser%,$(TESTS)) $(if $(filter tests tests/,$(TESTS)),tests/browser)
other_tests := $(filter-out tests/browser%,$(TESTS))
# Once more on PostgreSQL: what is stored, and not how providers fail and viewers are shown it.
once := conversations/test_polling conversations/test_self_check $(addprefix faults/test_,\
	f01* f02* f03* f05* f06* f08* f09* chaos*)
postgres_tests := $(if $(filter tests tests/,$(TESTS)),\
	$(addprefix tests/,conversations faults llmchat monitor) \
	$(patsubst %,--ignore-glob=tests/%.py,$(once)))
on_postgres := $(PY) -m tests.servers.postgres

# Secrets and databases of their own, so that nothing depends on what this machine has.
fresh_data = DATA_DIR=$$(mktemp -d) && export DATA_DIR && trap 'rm -rf "$$DATA_DIR"' EXIT
pytest = $(2) $(PY) -m pytest $(1) $(ARGS)
# Exit code 5 is "no tests", and right where ARGS selects only tests of another call.
count = case $$? in 0) ran=1 ;; 5) $(if $(ARGS),,failed=1) ;; *) ran=1 failed=1 ;; esac
side_by_side := $(and $(strip $(other_tests)),$(strip $(postgres_tests) $(browser_tests)))

# The whole suite is three calls of pytest: all but the browser on SQLite, what uses the database
# once more on PostgreSQL, and the browser, as Playwright keeps an event loop in the main thread.
# Most of the time they wait, so the first goes on beside the others, and its report comes last.
# Some pages are also opened through nginx, which is installed where that is possible.
# With TESTS there is none on PostgreSQL; for that, in the environment of .venv:
#   python -m tests.servers.postgres python -m pytest FILE
test: $(VENV)/.dev ## Run every test; TESTS=tests/monitor and ARGS="-k name" for some
	@$(fresh_data); export DATABASE_URL= REDIS_URL=; ran=0 failed=0; \
	$(PY) manage.py collectstatic --no-input --verbosity 0 || exit 1; \
	$(if $(side_by_side),mkdir "$$DATA_DIR/beside"; \
		DATA_DIR="$$DATA_DIR/beside" $(call pytest,--ignore=tests/browser $(other_tests)) \
			>"$$DATA_DIR/report" 2>&1 & beside=$$!; trap 'kill $$beside; exit 130' INT TERM;, \
	$(if $(strip $(other_tests)),$(call pytest,--ignore=tests/browser $(other_tests)); $(count);)) \
	$(if $(strip $(postgres_tests)),\
		$(call pytest,-m database $(postgres_tests),$(on_postgres)); $(count);) \
	$(if $(strip $(browser_tests)),\
		CHROMIUM=$$($(PY) -m tests.browser.chromium) && export CHROMIUM || failed=1; \
		$(PY) -m tests.servers.nginx >/dev/null; \
		$(call pytest,$(browser_tests)); $(count);) \
	$(if $(side_by_side),wait $$beside; $(count); cat "$$DATA_DIR/report";) \
	[ $$ran = 1 ] && [ $$failed = 0 ]

soak: $(VENV)/.dev ## Look for SOAK_MINUTES (5) whether anything gets lost, with SOAK_SEED
	@$(PY) -m tests.soak

bench: $(VENV)/.dev ## Run the benchmarks, each of which says what it measures
	@$(fresh_data); \
	for file in $$(grep -l __main__ benchmarks/*.py); do \
		name=$$(basename $$file .py); echo "== $$name"; \
		$(PY) -m benchmarks.$$name $(ARGS) || exit 1; \
	done

# ---- Checks
# One line for a step that goes well; what it had to say, too, for one that does not.
begin = $(fresh_data); failed=0; \
	step() { \
		name=$$1; shift; \
		if said=$$("$$@" 2>&1); then printf '%-24s ok\n' "$$name"; \
		else failed=1; printf '%-24s FAILED\n%s\n' "$$name" "$$said"; fi; \
	}
templates = find templates -name '*.html'
# As in production, whatever .env says: an empty value stands for the default.
production = env HTTPS=true ALLOWED_HOSTS=chat.example.org DEBUG= SECRET_KEY= ENCRYPTION_KEYS= \
	DATABASE_URL= TRUSTED_PROXIES=

lint_steps = \
	step "format" $(BIN)/ruff format --check --quiet --output-format concise .; \
	step "rules" $(BIN)/ruff check --quiet --output-format concise .; \
	step "templates" $(BIN)/djade --check $$($(templates)); \
	step "spelling" $(BIN)/typos; \
	step "imports" $(BIN)/lint-imports --no-logo --cache-dir .cache/import-linter
type_steps = step "types" $(BIN)/mypy
site_steps = \
	step "deployment" $(production) $(PY) manage.py check --deploy --fail-level WARNING; \
	step "migrations" $(production) $(PY) manage.py makemigrations --check --dry-run; \
	step "requirements" $(PY) -m tests.tools.pins

check: $(VENV)/.dev ## Check format, rules, types, layers, deployment and requirements
	@$(begin); $(lint_steps); $(type_steps); $(site_steps); exit $$failed

lint: $(VENV)/.dev ## Only the checks of the text: format, rules, templates, spelling, layers
	@$(begin); $(lint_steps); exit $$failed

types: $(VENV)/.dev ## Only the check of the types
	@$(begin); $(type_steps); exit $$failed

format: $(VENV)/.dev ## Format Python and templates
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/djade $$($(templates)) >/dev/null 2>&1 || $(BIN)/djade --check $$($(templates)) 2>/dev/null

clean: ## Remove what can be made again; the data stay
	@rm -rf $(VENV) .cache staticfiles test-results .pytest_cache .ruff_cache .mypy_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
