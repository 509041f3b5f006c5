#!/usr/bin/env bash
# packages.sh - install what lx2v needs from the distribution, and nothing from anywhere else
# SPDX-License-Identifier: Apache-2.0
#
#   deploy/packages.sh            what building and running needs
#   deploy/packages.sh --test     also what tests/run.sh needs
#   deploy/packages.sh --bundle   also what deploy/bundle.sh needs
#   deploy/packages.sh --list     only print what is missing; exit 1 if anything is
#
# Debian 12, Debian 13 and Ubuntu 24.04. What differs between them in names is here and nowhere
# else: a need with several names takes the first one that the distribution has.
set -euo pipefail

# One need a line: its names, best first.
build_needs=(
    "gcc"
    "libc6-dev"
    "cmake"
    "ninja-build"
    "pkgconf pkg-config"
    "libzmq3-dev"
    "libczmq-dev"
    "libmsgpack-c-dev libmsgpack-dev" # 6 in newer releases; 4 holds C and C++ in one package
    "libyaml-dev"
    "libjansson-dev"
    "libutf8proc-dev"
    "nettle-dev"                      # not needed, but weights are checked seven times as fast
    "libdnnl-dev libonednn-dev"       # oneDNN 2.6 (Debian 12) or 3
    "ocl-icd-opencl-dev"              # only because oneDNN's CMake files ask for it
    "libavcodec-dev"
    "libavformat-dev"
    "libavutil-dev"
    "libswscale-dev"
)
test_needs=(
    "libcmocka-dev"
    "ffmpeg"       # ffprobe: a second opinion on the mp4
    "clang"        # the other compiler, its analyser, libFuzzer
    "clang-format"
    "shellcheck"
    "procps"       # the pipeline tests look at processes
)
bundle_needs=(
    "patchelf"     # library paths relative to the bundle
    "binutils"     # readelf, strip
    "xz-utils"
    "dpkg-dev"     # unpacks the distribution's source of FFmpeg (--slim)
    "make"
    "nasm"         # FFmpeg's assembler
    "libx264-dev"
    "zlib1g-dev"   # for PNG
)

if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
    build_needs+=("g++") # nvcc's own compiler
fi

libraries="gcc (C17; g++ for CUDA), cmake >= 3.22, ninja, pkg-config, libzmq >= 4.3.3, czmq >= 4.2, msgpack-c >= 4, libyaml,
  jansson >= 2.13, utf8proc, oneDNN 2.6 or 3, FFmpeg 5 to 7 with libx264 (libavcodec, libavformat,
  libavutil, libswscale), and nettle >= 3.4 if it is there; for the tests also cmocka >= 1.1.5, ffprobe, clang, clang-format, shellcheck"

say() { printf 'packages: %s\n' "$*"; }
die() {
    printf 'packages: %s\n' "$*" >&2
    exit 2
}

with_tests=0
with_bundle=0
list_only=0
for argument in "$@"; do
    case $argument in
    --test) with_tests=1 ;;
    --bundle) with_bundle=1 ;;
    --list) list_only=1 ;;
    -h | --help)
        sed -n '2,12s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) die "unknown option $argument; accepted are --test, --bundle, --list, --help" ;;
    esac
done

system_name() {
    # shellcheck disable=SC1091 # a file of the distribution
    (. /etc/os-release 2>/dev/null && printf '%s' "${PRETTY_NAME:-unknown}") || printf 'unknown'
}

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    die "this system ($(system_name)) has no apt-get. Install these with its own package manager, then
  build with cmake --preset release and cmake --build --preset release:
  $libraries"
fi

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, and there is no sudo; as root run: $*"
    fi
}

is_installed() {
    local state
    state=$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) || return 1
    [ "$state" = installed ]
}

is_known() { [ -n "$(apt-cache madison "$1" 2>/dev/null)" ]; }

# Print the package that serves a need ("a b c"), or nothing if none of the names is known.
choose() {
    local name
    for name in $1; do
        if is_installed "$name"; then
            printf '%s' "$name"
            return
        fi
    done
    for name in $1; do
        if is_known "$name"; then
            printf '%s' "$name"
            return
        fi
    done
}

# libFuzzer's and the sanitizers' run-time of clang is a package with clang's version in its name.
clang_runtime() {
    local version
    version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
    [ -z "$version" ] || printf 'libclang-rt-%s-dev' "$version"
}

# Fill `missing` with packages to install and `unknown` with needs that no package serves.
look() {
    missing=()
    unknown=()
    local need name
    for need in "${needs[@]}"; do
        name=$(choose "$need")
        if [ -z "$name" ]; then
            unknown+=("${need// / or }")
        elif ! is_installed "$name"; then
            missing+=("$name")
        fi
    done
    if [ "$with_tests" -eq 1 ]; then
        name=$(clang_runtime)
        if [ -n "$name" ] && ! is_installed "$name"; then
            missing+=("$name")
        fi
    fi
}

needs=("${build_needs[@]}")
if [ "$with_tests" -eq 1 ]; then
    needs+=("${test_needs[@]}")
fi
if [ "$with_bundle" -eq 1 ]; then
    needs+=("${bundle_needs[@]}")
fi

look
if [ "$list_only" -eq 1 ]; then
    if [ ${#missing[@]} -eq 0 ] && [ ${#unknown[@]} -eq 0 ]; then
        exit 0
    fi
    printf '%s\n' "${missing[@]}" "${unknown[@]}" | sed '/^$/d'
    exit 1
fi
if [ ${#missing[@]} -eq 0 ] && [ ${#unknown[@]} -eq 0 ]; then
    say "everything is installed already"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)

say "reading the package lists of $(system_name)"
as_root "${apt[@]}" -qq update </dev/null || {
    say "that failed; once more in 10 seconds"
    sleep 10
    as_root "${apt[@]}" -qq update </dev/null || say "the lists could not be refreshed: trying with what is there"
}
look # with fresh lists
if [ ${#unknown[@]} -gt 0 ]; then
    die "$(system_name) has no package for: $(printf '%s; ' "${unknown[@]}")
  known to work are Debian 12, Debian 13 and Ubuntu 24.04 (with universe). Needed in all:
  $libraries"
fi

install=("${apt[@]}" install -y --no-install-recommends)
size=$(LC_ALL=C apt-get -o Debug::NoLocking=1 install --assume-no --no-install-recommends "${missing[@]}" \
    </dev/null 2>/dev/null |
    sed -n 's/^Need to get \(.*\) of archives\.$/\1 to download, /p
            s/^After this operation, \(.*\) of additional disk space.*/\1 on disk/p' |
    tr -d '\n') || true # --assume-no ends with 1 by design
say "installing ${#missing[@]} packages and what they depend on (${size:-size unknown}):"
say "  ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
as_root env DEBIAN_FRONTEND=noninteractive "${install[@]}" -qq "${missing[@]}" </dev/null >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    die "apt-get install failed; its last words are above"
}
say "done"
