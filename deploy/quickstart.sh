#!/usr/bin/env bash
# quickstart.sh - from a bare machine to a clip in the current folder
# SPDX-License-Identifier: Apache-2.0
#
#   deploy/quickstart.sh                                    a clip of a standard prompt
#   deploy/quickstart.sh "a red ball rolls over the grass"  a clip of yours
#   deploy/quickstart.sh --cpu "..."                        do not ask about a graphics card
#
# Installs missing packages, builds, starts the pipeline with config.yaml, makes one clip, shuts
# everything down. Exit codes are those of lx2v: 0 ok, 1 failed, 2 a person must act, 130 cancelled.
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
prompt=${prompt:-"a red ball rolls from left to right over green grass"}

# --- the card ------------------------------------------------------------------------------------

has_nvidia_card() {
    compgen -G '/dev/nvidia[0-9]*' >/dev/null && return 0
    [ -e /proc/driver/nvidia/version ] && return 0
    command -v lspci >/dev/null && lspci 2>/dev/null | grep -Eiq '(vga|3d|display).*nvidia'
}

has_cuda_compiler() { command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; }

# Download and disk size of a package with all it needs, as this machine's apt says.
size_of() {
    LC_ALL=C apt-get -o Debug::NoLocking=1 install --assume-no --no-install-recommends "$@" </dev/null 2>/dev/null |
        sed -n 's/^Need to get \(.*\) of archives\.$/\1 to download, /p
                s/^After this operation, \(.*\) of additional disk space.*/\1 on disk/p' | tr -d '\n' || true
}

ask_about_card() {
    local size
    if [ "$cpu_only" -eq 1 ] || ! has_nvidia_card; then
        return
    fi
    if [ ! -e "$root/kernels/cuda/CMakeLists.txt" ]; then
        say "an NVIDIA card is present, but this version of lx2v has no CUDA kernels yet: it computes on the CPU"
    fi
    if ! has_cuda_compiler; then
        size=$(size_of nvidia-cuda-toolkit)
        die 2 "an NVIDIA card is present, but no CUDA compiler (nvcc). It is in the distribution's package
  nvidia-cuda-toolkit (${size:-1.6 GB to download, 5.5 GB on disk in Debian 12, component non-free}), or in
  NVIDIA's own packages cuda-nvcc, cuda-cudart-dev and libcublas-dev of one release.
  Install one of them and come back, or go on without the card:
    ${BASH_SOURCE[0]} --cpu \"$prompt\""
    fi
}

# --- building ------------------------------------------------------------------------------------

build() {
    local options=() log=$work/build.log
    if [ "$cpu_only" -eq 1 ]; then
        options=(-DLX2V_CUDA=OFF)
    fi
    say "building into $root/build/release"
    if ! (cd "$root" && cmake --preset release "${options[@]}") >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die 1 "configuring failed; its last words are above"
    fi
    if ! cmake --build "$root/build/release" --target lx2v lx2v-launch lx2v-encoder lx2v-dit lx2v-vae lx2v-mux \
        random_model >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die 1 "building failed; its last words are above"
    fi
    if [ ! -x "$bin/lx2v-launch" ] || [ ! -x "$bin/lx2v" ]; then
        die 1 "the build left no $bin/lx2v-launch"
    fi
}

# --- the pipeline --------------------------------------------------------------------------------

work=$(mktemp -d)
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

# Waits for the launcher's one line, `ready endpoint=...`, and sets endpoint. The pipe ends when the
# launcher does, so neither a clock nor a guess is needed, however long loading takes.
start() {
    local line=""
    mkfifo "$work/out"
    : >"$work/launch.log"
    # The folder of the config decides where relative paths lead, not the one we are called from.
    "$bin/lx2v-launch" "$root/config.yaml" >"$work/out" 2>"$work/launch.log" &
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
build
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
