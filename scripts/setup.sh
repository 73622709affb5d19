#!/usr/bin/env bash
# Brings libtorch and links it as .libtorch, so that plain cargo, the tests and the built binary
# find it.
#
#   scripts/setup.sh            the torch wheel in a cached virtual environment (shared by all checkouts)
#   LIBTORCH=DIR      your own libtorch: DIR/lib and DIR/include; nothing is downloaded
#   TORCH_INDEX=URL   another package index, for example one that serves CPU-only wheels
#   PYTHON=EXE        the interpreter the environment is made with (default: python3)
#
# The choice is kept: later calls without these variables leave the link as it is. Remove .libtorch
# to choose anew.
# The Python side (torchvision included) serves the parity tests, and ONNX Runtime checks exports;
# the Rust program needs only libtorch.
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=2.11.0
torchvision_version=0.26.0 # the release built against that torch
others="onnx onnxruntime openvino" # from the default index
python=${PYTHON:-python3}

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

link() { # link TARGET NAME: replaces a link, never a real file
    if [ -e "$2" ] && [ ! -L "$2" ]; then
        fail "$2 exists and is not a link; move it away and run make setup again"
    fi
    local before
    before=$(readlink "$2" 2>/dev/null || true)
    if [ "$before" != "$1" ]; then
        ln -sfn "$1" "$2"
        if [ -n "$before" ] && [ -d target ] && [ "$2" = .libtorch ]; then
            # Cargo sees the same path and would link against what it found there before.
            for profile in dev release; do cargo clean --quiet --profile "$profile" -p torch-sys -p torch-ext || true; done
        fi
    fi
}

is_libtorch() { # is_libtorch DIR: whether DIR is a libtorch of the right version
    local version=$1/include/torch/headeronly/version.h
    [ -e "$1/lib/libtorch_cpu.so" ] && [ -e "$version" ] &&
        [ "$(awk '/define TORCH_VERSION_(MAJOR|MINOR|PATCH) /{printf "%s%s", separator, $3; separator = "."}' "$version")" = "$torch_version" ]
}

first_closed() { # first_closed DIR: the first folder on the way to DIR that other users may not enter
    local folder=
    local part
    for part in $(echo "$1" | tr ' /' '\001 '); do
        folder=$folder/$(echo "$part" | tr '\001' ' ')
        case $(stat -c %A "$folder") in *x | *t) ;; *) echo "$folder" && return ;; esac
    done
}

complete() { # complete ENVIRONMENT: adds the packages that came later, to an environment made here
    local marker=$1/with-${others// /-and-}
    if [ ! -e "$1/setup-complete" ] || [ -e "$marker" ]; then return; fi
    echo "setup: installing $others" >&2
    # Everything but the tests of exports works without.
    if "$1/bin/python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 $others; then
        touch "$marker"
    else
        echo "setup: without $others the tests of ONNX files skip" >&2
    fi
}

need() { # need COMMAND ADVICE
    command -v "$1" >/dev/null 2>&1 || fail "'$1' was not found; $2"
}

[ "$(uname -s)" = Linux ] || fail "only Linux is supported so far; on another system set LIBTORCH and use cargo directly"
need cargo "install Rust from https://rustup.rs"
compiler=${CXX:-c++}
need "${compiler%% *}" "install a C++ compiler (g++ on Debian and Ubuntu, gcc-c++ on Fedora) or name yours in CXX"
compiler=${CC:-cc}
need "${compiler%% *}" "install a C compiler (gcc) or name yours in CC"
need make "install make, which the build of jemalloc runs"
# rust-version in Cargo.toml
rust=$(cargo --version | cut -d' ' -f2)
[ "$(printf '%s\n' 1.89 "$rust" | sort -V | head -n 1)" = 1.89 ] || fail "cargo $rust is too old; 1.89 or newer is needed: rustup update"

if [ -n "${LIBTORCH:-}" ]; then
    own=$(cd "$LIBTORCH" 2>/dev/null && pwd -P) || fail "LIBTORCH=$LIBTORCH is not a folder"
    is_libtorch "$own" || fail "LIBTORCH=$LIBTORCH is not libtorch $torch_version (lib/libtorch_cpu.so and include/torch)"
    if [ "$own" != "$(cd .libtorch 2>/dev/null && pwd -P)" ]; then
        link "$own" .libtorch
        rm -f .venv # it belonged to another libtorch
        echo "setup: libtorch at $own (yours); without .venv the tests against PyTorch skip" >&2
    fi
    exit 0
fi

# What was chosen once stays chosen.
if [ -z "${TORCH_INDEX:-}" ] && [ -L .libtorch ] && is_libtorch .libtorch; then
    if [ -L .venv ]; then complete "$(readlink .venv)"; fi
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
        closed=$(first_closed "$environment")
        [ -z "$closed" ] ||
            echo "setup: only you can run what is built here, since $closed is closed to others; XDG_CACHE_HOME names another place" >&2
    fi
fi

site=$(echo "$environment"/lib/python3*/site-packages)
is_libtorch "$site/torch" || fail "$site/torch is not libtorch $torch_version; remove $environment and run make setup again"
link "$site/torch" .libtorch
link "$environment" .venv
complete "$environment"
