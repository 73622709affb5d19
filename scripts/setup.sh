#!/usr/bin/env bash
# Brings libtorch and links it as .libtorch, so that plain cargo, the tests and the built binary find it.
#
#   scripts/setup.sh            the torch wheel in a cached virtual environment (shared by all checkouts)
#   LIBTORCH=DIR   your own libtorch: DIR/lib and DIR/include; nothing is downloaded
#   TORCH_INDEX=URL   another package index, for example one that serves CPU-only wheels
#   PYTHON=EXE   the interpreter the environment is made with (default: python3)
#
# The Python side (torchvision included) serves the parity tests; the Rust program needs only libtorch.
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=2.11.0
torchvision_version=0.26.0 # the release built against that torch
python=${PYTHON:-python3}

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

link() { # link TARGET NAME: replaces a link, never a real file
    if [ -e "$2" ] && [ ! -L "$2" ]; then
        fail "$2 exists and is not a link; move it away and run make setup again"
    fi
    [ "$(readlink "$2" 2>/dev/null || true)" = "$1" ] || ln -sfn "$1" "$2"
}

need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || fail "'$1' was not found; $2"
}

need cargo "install Rust from https://rustup.rs"
if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
    fail "no C++ compiler ('${CXX:-c++}'); install one: Debian and Ubuntu: g++, Fedora: gcc-c++, or set CXX"
fi

if [ -n "${LIBTORCH:-}" ]; then
    own=$(cd "$LIBTORCH" 2>/dev/null && pwd -P) || fail "LIBTORCH=$LIBTORCH is not a folder"
    if [ "$own" = "$(cd .libtorch 2>/dev/null && pwd -P)" ]; then exit 0; fi
    for part in lib/libtorch_cpu.so include/torch; do
        [ -e "$own/$part" ] || fail "LIBTORCH=$LIBTORCH has no $part; expected an unpacked libtorch $torch_version"
    done
    link "$own" .libtorch
    rm -f .venv # it belonged to another libtorch; the tests that need Python skip without it
    echo "setup: libtorch at $own (yours)" >&2
    exit 0
fi

cache=${XDG_CACHE_HOME:-${HOME:?setup needs HOME or XDG_CACHE_HOME}/.cache}/gumbel-gates
name=torch-$torch_version
if [ -n "${TORCH_INDEX:-}" ]; then # wheels of another index are other wheels
    name=$name-$(printf %s "$TORCH_INDEX" | cksum | cut -d' ' -f1)
fi
environment=$cache/$name
complete=$environment/setup-complete # written last: an interrupted set-up starts afresh

if [ ! -e "$complete" ]; then
    need "$python" "install Python 3.10 or newer: Debian and Ubuntu: python3, or set PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$("$python" --version) is too old for torch $torch_version; Python 3.10 or newer is needed (set PYTHON)"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv module; install it: Debian and Ubuntu: python3-venv"
    mkdir -p "$cache" || fail "cannot write to $cache; set XDG_CACHE_HOME to a folder you own"
    exec 9>"$cache/lock"
    if command -v flock >/dev/null 2>&1; then flock 9; fi # two checkouts may set up at once
    if [ ! -e "$complete" ]; then
        echo "setup: installing torch $torch_version into $environment (once; several minutes on a slow network)" >&2
        rm -rf "$environment"
        "$python" -m venv "$environment"
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
            ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
            "torch==$torch_version" "torchvision==$torchvision_version" ||
            fail "pip could not install torch $torch_version (see above)" \
                "with a proxy or another index, set TORCH_INDEX; with your own libtorch, set LIBTORCH"
        touch "$complete"
    fi
fi

site=$(echo "$environment"/lib/python3*/site-packages)
[ -e "$site/torch/lib/libtorch_cpu.so" ] || fail "$site/torch has no libtorch; remove $environment and run make setup again"
link "$site/torch" .libtorch
link "$environment" .venv
