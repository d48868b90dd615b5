# The contributor's and the tester's menu: `make help`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
MAKEFLAGS += --no-print-directory

# The distribution's own Python: libvirt's and liblxc's bindings are built for it.
PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME

# Engines whose absence fails the tests instead of skipping them.
export TRIUNE_REQUIRE ?=

.PHONY: help
help: ## Show this menu
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do
		printf '  %-12s %s\n' "$$name" "$$what"
	done

# --- the environment -------------------------------------------------------------------------------------------

$(BIN)/pip:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || {
		echo "Installing python3-venv"
		export DEBIAN_FRONTEND=noninteractive
		apt-get update -q >/dev/null
		apt-get install -q -y --no-install-recommends python3-venv >/dev/null
	}
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock requirements-build.lock pyproject.toml | $(BIN)/pip
	@echo "Installing Python packages"
	$(BIN)/pip install -qq --require-hashes -r requirements-build.lock
	$(BIN)/pip install -qq --require-hashes -r requirements.lock
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "Installing Python packages for development"
	$(BIN)/pip install -qq --require-hashes -r requirements-dev.lock
	touch $@

# Start-up speed of the command counts, and PYTHONDONTWRITEBYTECODE may be set: compile ahead.
.PHONY: compiled
compiled: $(VENV)/.run
	@$(BIN)/python -m compileall -q -j 0 src/triune $(VENV)/lib >/dev/null || true

.PHONY: setup
setup: compiled ## Install system packages, start the daemons
	@$(BIN)/triune setup

# --- what users want -------------------------------------------------------------------------------------------

.PHONY: up
up: setup ## From a fresh machine to a VM, a system and an app container that know each other
	@$(BIN)/triune demo up

.PHONY: down
down: ## Remove the demo, and nothing else
	@$(BIN)/triune demo down --yes

# --- what contributors want ------------------------------------------------------------------------------------

.PHONY: lint
lint: $(VENV)/.dev ## ruff, mypy, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# What only tests need: a registry on loopback, a client of HTTP, another reader of VMFS, an ESXi simulator to build.
.PHONY: test-tools
test-tools:
	@missing=
	command -v docker-registry >/dev/null || missing+=" docker-registry"
	command -v curl >/dev/null || missing+=" curl"
	command -v debugvmfs >/dev/null || missing+=" vmfs-tools"
	command -v busybox >/dev/null || missing+=" busybox-static"
	command -v mkntfs >/dev/null || missing+=" ntfs-3g"
	command -v mkfs.xfs >/dev/null || missing+=" xfsprogs"
	command -v mkfs.btrfs >/dev/null || missing+=" btrfs-progs"
	command -v ewfacquire >/dev/null || missing+=" ewf-tools"
	command -v mcopy >/dev/null || missing+=" mtools"
	command -v mkfs.vfat >/dev/null || missing+=" dosfstools"
	command -v virt-v2v-in-place >/dev/null || missing+=" virt-v2v"
	command -v nbdkit >/dev/null || missing+=" nbdkit"
	command -v hivexregedit >/dev/null || missing+=" libwin-hivex-perl"
	command -v swtpm_setup >/dev/null || missing+=" swtpm swtpm-tools"
	[ -e /usr/lib/grub/x86_64-efi/monolithic/grubx64.efi ] || missing+=" grub-efi-amd64-bin"
	command -v go >/dev/null || missing+=" golang-go"
	[ -d /usr/share/gocode/src/github.com/vmware/govmomi ] || missing+=" golang-github-vmware-govmomi-dev"
	[ -z "$$missing" ] || {
		export DEBIAN_FRONTEND=noninteractive
		apt-get update -q >/dev/null
		apt-get install -q -y --no-install-recommends $$missing >/dev/null
	}

.PHONY: test
test: $(VENV)/.dev compiled test-tools ## Every test, the live ones on real engines included (root)
	@$(BIN)/triune setup --no-daemon
	export TRIUNE_REQUIRE=kvm,lxc,docker
	pytest="$(BIN)/python -m pytest -q --color=no"
	failed=
	# Those that must have the engines for themselves leave processors idle: what needs no engine runs there meanwhile.
	beside=$$(mktemp)
	nice -n 19 $$pytest -n 2 -m "not live" >"$$beside" 2>&1 & others=$$!
	trap 'kill $$others 2>/dev/null || true; rm -f "$$beside"' EXIT
	$$pytest -m "live and alone" --durations=10 || failed=yes
	wait $$others || failed=yes
	cat "$$beside"
	$$pytest -n 2 --dist loadscope --no-loadscope-reorder -m "live and not alone" --durations=25 || failed=yes
	[ -z "$$failed" ]

.PHONY: test-quick
test-quick: $(VENV)/.dev ## Tests without root and engines, under a minute
	@$(BIN)/python -m pytest -q -n 2 -m "not live and not heavy"

.PHONY: bench
bench: $(VENV)/.dev setup ## Measure against the engines' own tools
	$(BIN)/python -m tests.bench

.PHONY: docs
docs: compiled ## Write docs/CLI.md and the tables of docs/ADVISE.md and docs/AUDIT.md from the sources
	@$(BIN)/python tools/cli_docs.py > docs/CLI.md.new
	mv docs/CLI.md.new docs/CLI.md
	$(BIN)/python tools/advice_docs.py
	$(BIN)/python tools/audit_docs.py

.PHONY: lock
lock: $(VENV)/.dev ## Renew the locked dependencies
	@export CUSTOM_COMPILE_COMMAND="make lock" PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS= PIP_EXTRA_INDEX_URL=
	compile="$(BIN)/pip-compile -q --upgrade --generate-hashes --allow-unsafe --strip-extras"
	compile+=" --no-emit-index-url --no-emit-find-links --no-emit-trusted-host"
	$$compile -o requirements.lock pyproject.toml
	$(BIN)/python tools/groups.py build | $$compile -o requirements-build.lock -
	$(BIN)/python tools/groups.py dev | $$compile -c requirements.lock -o requirements-dev.lock -
