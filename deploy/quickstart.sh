#!/usr/bin/env bash
# quickstart.sh - from a bare machine to a clip in the current folder
# SPDX-License-Identifier: Apache-2.0
#
#   deploy/quickstart.sh                                    a clip of a standard prompt
#   deploy/quickstart.sh "a small blue star spins on white" a clip of yours
#   deploy/quickstart.sh --cpu "..."                        leave a graphics card alone
#
# Installs missing packages, builds, starts the pipeline with the demo model, makes one clip,
# shuts everything down. Exit codes are those of lx2v: 0 ok, 1 failed, 2 a person must act, 130 cancelled.
set -euo pipefail

here=$PWD
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
bin=$root/build/release/bin
prompt=""
cpu_only=0

say() { printf 'quickstart: %s\n' "$*"; }
die() { # code message
    printf 'quickstart: %s\n' "$2" >&2
    exit "$1"
}

for argument in "$@"; do
    case $argument in
    --cpu) cpu_only=1 ;;
    -h | --help)
        sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    --*) die 2 "unknown option $argument; accepted are --cpu, --help" ;;
    *)
        [ -z "$prompt" ] || die 2 "one prompt, not two; put it in quotation marks"
        prompt=$argument
        ;;
    esac
done
prompt=${prompt:-"a red circle moves right on a white background"}

# --- the card ------------------------------------------------------------------------------------

has_nvidia_card() {
    compgen -G '/dev/nvidia[0-9]*' >/dev/null && return 0
    [ -e /proc/driver/nvidia/version ] && return 0
    command -v lspci >/dev/null && lspci 2>/dev/null | grep -Eiq '(vga|3d|display).*nvidia'
}

# The CUDA compiler that the build will find; nothing without one.
find_nvcc() {
    local nvcc
    for nvcc in /usr/local/cuda/bin/nvcc "$(command -v nvcc || true)"; do
        if [ -x "$nvcc" ]; then
            printf '%s' "$nvcc"
            return
        fi
    done
}

# Is there a card of compute capability 8.0? Where nobody tells, let the build try.
has_usable_card() {
    local capabilities
    capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null) || return 0
    printf '%s\n' "$capabilities" | grep -Eq '^([89]|[1-9][0-9])\.'
}

# What the build for a card lacks, and what to do; ends the program.
refuse_card() { # what is found
    die 2 "an NVIDIA card is present, but $1; CUDA 12.4 or newer is
  needed. NVIDIA's packages cuda-nvcc, cuda-cudart-dev and libcublas-dev of one release are enough
  (https://developer.nvidia.com/cuda-downloads); Debian 12 and Ubuntu 24.04 themselves have older ones.
  Install them and come back, or go on without the card:
    ${BASH_SOURCE[0]} --cpu \"$prompt\""
}

nvcc="" # where there is a card to build for

ask_about_card() {
    local release
    if [ "$cpu_only" -eq 1 ] || ! has_nvidia_card; then
        return
    fi
    if ! has_usable_card; then
        say "the NVIDIA card here is older than compute capability 8.0 (RTX 30): going on without it"
        cpu_only=1
        return
    fi
    nvcc=$(find_nvcc)
    [ -n "$nvcc" ] || refuse_card "no CUDA compiler (nvcc)"
    release=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\.[0-9]*\).*/\1/p')
    if [ "$(printf '%s\n' 12.4 "${release:-0}" | sort -V | head -n 1)" != 12.4 ]; then
        refuse_card "only that of CUDA ${release:-(unknown)} as a compiler (nvcc)"
    fi
}

# Once packages are installed: nvcc has a C++ compiler then.
check_cublas() {
    local words
    if [ -n "$nvcc" ] && ! words=$(echo '#include <cublasLt.h>' | "$nvcc" -x cu -E - 2>&1 >/dev/null); then
        refuse_card "$nvcc cannot compile with cublasLt.h: $(printf '%s' "$words" | tail -n 3)"
    fi
}

# --- building ------------------------------------------------------------------------------------

build() {
    local options=() targets=() log=$work/build.log
    if [ "$cpu_only" -eq 1 ]; then
        options=(-DLX2V_CUDA=OFF)
    fi
    say "building into $root/build/release"
    if ! (cd "$root" && cmake --preset release "${options[@]}") >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die 1 "configuring failed; its last words are above"
    fi
    targets=(lx2v lx2v-launch lx2v-encoder lx2v-dit lx2v-vae lx2v-mux demo_model)
    if grep -q '^-- cuda: building for ' "$log"; then
        sed -n 's/^-- cuda: building for/quickstart: with kernels for compute capability/p' "$log"
        targets+=(lx2v_cuda)
    fi
    if ! cmake --build "$root/build/release" --target "${targets[@]}" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die 1 "building failed; its last words are above"
    fi
    if [ ! -x "$bin/lx2v-launch" ] || [ ! -x "$bin/lx2v" ]; then
        die 1 "the build left no $bin/lx2v-launch"
    fi
}

# --- the pipeline --------------------------------------------------------------------------------

work=$(mktemp -d)
export LX2V_STATE_DIR=$work/state # sockets and journal go when this ends
launcher=""
follower=""

# Stops what was started, in every case; the launcher takes its stages down itself.
finish() {
    local code=$?
    trap - EXIT INT TERM
    [ -z "$follower" ] || kill "$follower" 2>/dev/null || true
    if [ -n "$launcher" ] && kill "$launcher" 2>/dev/null; then
        say "shutting down"
        wait "$launcher" 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# config.yaml computes on the CPU. With a card, what `lx2v init` proposes for this machine instead, at
# the demo model's size.
choose_config() {
    config=$root/config.yaml
    if [ "$cpu_only" -eq 1 ]; then
        return
    fi
    if "$bin/lx2v" init "$root/build/release/models/demo" >"$work/config.yaml" 2>"$work/init.log" &&
        grep -q '^  dit: {device: "cuda:' "$work/config.yaml"; then
        printf '%s\n' "output: {dir: \"$root/output\"}" 'defaults: {size: 128x128, frames: 33}' \
            'limits: {size: 256x256, frames: 49}' >>"$work/config.yaml"
        config=$work/config.yaml
        say "on the card: $(sed -n '/^#   cuda:/{s/^#   //p;q}' "$work/config.yaml")"
    elif has_nvidia_card; then
        say "on the CPU: $(sed -n 's/^# All stages compute on the CPU: //p' "$work/config.yaml")"
    fi
}

# Waits for the launcher's one line, `ready endpoint=...`, and sets endpoint. The pipe ends when the
# launcher does, so neither a clock nor a guess is needed, however long loading takes.
start() {
    local line=""
    mkfifo "$work/out"
    : >"$work/launch.log"
    # The folder of the config decides where relative paths lead, not the one we are called from.
    "$bin/lx2v-launch" "$config" >"$work/out" 2>"$work/launch.log" &
    launcher=$!
    tail --pid="$launcher" -n +1 -f "$work/launch.log" 2>/dev/null |
        sed -u -n 's/^I [a-z]*\[[0-9]*\] \(loading .*\)/quickstart: \1/p
                   s/^I launch\[[0-9]*\] stage=\([a-z]*\) .* ready load_s=\([0-9.]*\) weights_mib=\([0-9.]*\).*/quickstart: \1 is ready (\3 MiB of weights in \2 s)/p' &
    follower=$!
    exec 3<"$work/out"
    while read -r line <&3; do
        case $line in
        "ready endpoint="*)
            endpoint=${line#ready endpoint=}
            kill "$follower" 2>/dev/null || true
            return
            ;;
        esac
    done
    local code=0
    wait "$launcher" || code=$?
    launcher=""
    tail -n 20 "$work/launch.log" >&2
    die "$((code == 0 ? 1 : code))" "the launcher ended before it was ready; its last words are above"
}

# NAME.mp4 in the current folder, from the first words of the prompt; never one that is there.
free_name() {
    local base name n=1
    base=$(printf '%s' "$prompt" | LC_ALL=C tr -cs 'A-Za-z0-9' '-' | cut -c 1-40)
    base=${base#-}
    base=${base%-}
    base=${base:-clip}
    name=$here/$base.mp4
    while [ -e "$name" ]; do
        n=$((n + 1))
        name=$here/$base-$n.mp4
    done
    printf '%s' "$name"
}

ask_about_card
"$root/deploy/packages.sh"
check_cublas
build
config=""
choose_config
endpoint=""
start
clip=$(free_name)
say "prompt: $prompt"
code=0
"$bin/lx2v" submit --endpoint "$endpoint" --wait -o "$clip" -- "$prompt" || code=$?
if [ "$code" -ne 0 ]; then
    tail -n 20 "$work/launch.log" >&2
    die "$code" "no clip; the launcher's last words are above"
fi
[ -s "$clip" ] || die 1 "$clip is missing or empty"
say "the clip is $clip ($(stat -c %s "$clip") bytes)"
