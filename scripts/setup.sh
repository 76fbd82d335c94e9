#!/bin/sh
# Makes the virtual environment and installs the locked packages in it; a second run with nothing changed does nothing.
#
#   scripts/setup.sh run      what `make run` needs
#   scripts/setup.sh          and what tests, notebooks, docs and benchmarks need
#   scripts/setup.sh test     and what some tests want: a redis-server besides the embedded one, a C compiler, a browser, Prometheus, nginx
#
# PYTHON chooses the interpreter (default python3), VENV the folder (default .venv).
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
has() { command -v "$1" >/dev/null 2>&1; }
quietly() { "$@" >"$LOG" 2>&1 </dev/null; }
apt_install() { quietly apt-get install -y "$@" || { quietly apt-get update && quietly apt-get install -y "$@"; }; }

LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

# What an environment depends on: the interpreter, and the folder, whose path is in its scripts.
place() {
    "$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)'
    pwd
}
# What an installation in it depends on: the lock, the entry points, and the native parts with their compiler.
contents() {
    cat "$1" pyproject.toml hatch_build.py pipeline/core/*.[ch] | cksum
    has "${CC:-cc}" && echo "with a C compiler" || true
}
recorded() { cat "$VENV/streamgauge-$1" 2>/dev/null || true; }
record() { printf '%s\n' "$2" >"$VENV/streamgauge-$1"; }

require_python() {
    has "$PYTHON" || die "no '$PYTHON' here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$PYTHON" --version) is too old: Streamgauge needs 3.11 or newer; name one: make PYTHON=/path/to/python3.11"
}

# Debian ships Python without ensurepip: `python3 -m venv` then fails and leaves half a folder behind.
make_venv() {
    # VENV is the user's to choose: what is not an environment is not ours to remove.
    if [ -e "$VENV" ] && [ ! -f "$VENV/pyvenv.cfg" ]; then
        die "$VENV exists and is not a virtual environment: remove it, or name another folder: make VENV=other"
    fi
    rm -rf "$VENV"
    quietly "$PYTHON" -m venv "$VENV" && return
    rm -rf "$VENV"
    if is_root && has apt-get; then
        say "installing python3-venv with apt"
        apt_install python3-venv && quietly "$PYTHON" -m venv "$VENV" && return
        rm -rf "$VENV"
    fi
    if has virtualenv && quietly virtualenv --python "$PYTHON" "$VENV"; then return; fi
    rm -rf "$VENV"
    # The system's pip may install into another environment even where Debian forbids it to touch its own.
    if quietly "$PYTHON" -m venv --without-pip "$VENV" &&
        quietly "$PYTHON" -m pip --python "$VENV/bin/python" install pip; then return; fi
    rm -rf "$VENV"
    die "$("$PYTHON" --version) here cannot make virtual environments; root can install what is missing: apt-get install python3-venv"
}

venv_works() { "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }

install_packages() {
    say "installing the locked packages into $VENV (the first time takes a minute or two)"
    "$VENV/bin/python" -m pip install -qq --no-compile --require-hashes --requirement "$1" ||
        die "pip could not install $1 (its message is above)"
    # With every core, where pip takes one: half of what an installation took. What does not compile is no module we import.
    quietly "$VENV/bin/python" -m compileall -q -j 0 \
        "$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
    "$VENV/bin/python" -m pip install -qq --no-deps --no-build-isolation --editable . ||
        die "pip could not install this folder (its message is above)"
}

# Tests that want Debian's server skip themselves at home and fail in CI, so a failure here is only said.
want_redis_server() {
    if has redis-server; then return; fi
    if is_root && has apt-get; then
        say "installing redis-server with apt, for the tests"
        if apt_install redis-server; then
            # The package starts a server on 6379 for good; the tests start their own.
            if [ -d /run/systemd/system ]; then quietly systemctl disable --now redis-server || true; fi
            return
        fi
        say "apt could not install redis-server: $(tail -n 1 "$LOG")"
    fi
    say "no redis-server on PATH, so the tests on it are skipped; root can install it: apt-get install redis-server"
}

# Likewise for the tests of tests/compat, which run what stands around the product: $1 a program, $2 its package.
want_program() {
    if has "$1"; then return; fi
    if is_root && has apt-get; then
        say "installing $2 with apt, for the tests"
        if apt_install --no-install-recommends "$2"; then
            # The package starts a server for good; the tests start their own.
            if [ -d /run/systemd/system ]; then quietly systemctl disable --now "$1" || true; fi
            return
        fi
        say "apt could not install $2: $(tail -n 1 "$LOG")"
    fi
    say "no $1 on PATH, so the tests with it are skipped; root can install it: apt-get install $2"
}

# Without one the package is pure Python, and the tests that compare the native reader with it are skipped.
want_compiler() {
    if has "${CC:-cc}"; then return; fi
    if is_root && has apt-get; then
        say "installing gcc with apt, for the native reader"
        if apt_install gcc python3-dev; then return; fi
        say "apt could not install gcc: $(tail -n 1 "$LOG")"
    fi
    say "no C compiler here, so the native reader is not built; root can install one: apt-get install gcc python3-dev"
}

# Likewise for the tests of the dashboard, which open it in the system's Chromium.
want_browser() {
    if has chromium || has chromium-browser; then return; fi
    if is_root && has apt-get; then
        say "installing chromium with apt, for the tests of the dashboard"
        if apt_install chromium; then return; fi
        say "apt could not install chromium: $(tail -n 1 "$LOG")"
    fi
    say "no chromium on PATH, so the tests of the dashboard are skipped; root can install it: apt-get install chromium"
}

require_python
if [ "${1:-}" = test ]; then want_compiler; fi
PLACE=$(place)
if [ "${1:-}" = run ]; then LOCK=requirements-run.lock; else LOCK=requirements.lock; fi
CONTENTS=$(contents "$LOCK")
# An environment that somebody made by hand has no record, and is kept if it works.
if ! venv_works || { [ -n "$(recorded place)" ] && [ "$(recorded place)" != "$PLACE" ]; }; then
    make_venv
    record place "$PLACE"
fi
# Whoever has everything has what running needs.
if [ "$(recorded contents)" != "$CONTENTS" ] && [ "$(recorded contents)" != "$(contents requirements.lock)" ]; then
    install_packages "$LOCK"
    record contents "$CONTENTS"
fi
if [ "${1:-}" = test ]; then
    want_redis_server
    want_browser
    want_program prometheus prometheus
    want_program nginx nginx-light
fi
