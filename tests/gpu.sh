#!/usr/bin/env bash
# gpu.sh - the tests that need an NVIDIA card: kernels, stages, a pipeline, and the sanitizers
# SPDX-License-Identifier: Apache-2.0
#
#   tests/gpu.sh [BUILD]        every test of BUILD/tests/gpu, clips through the pipeline on the card,
#                               and what the judge says of the demo model's (BUILD: build/cuda; in a
#                               bundle the bundle itself)
#   tests/gpu.sh --sanitize     also compute-sanitizer's memcheck and racecheck over the kernels
#   tests/gpu.sh --bench        also what each kernel family reaches, as shares of the card's roofs
#   tests/gpu.sh --faults       only what is broken on purpose; BUILD was made with -DLX2V_FAULTS=ON
#
# LX2V_TEST_DEVICE=N chooses the card (PCI order); LX2V_TEST_OUTPUT=FILE gets all that the tests say.
# Ends with `N passed, N failed, N skipped`.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
sanitize=0
bench=0
which=
build=
for argument in "$@"; do
    case $argument in
    --sanitize) sanitize=1 ;;
    --bench) bench=1 ;;
    --faults) which=cuda_faults ;;
    -h | --help)
        sed -n '2,15s/^# \{0,1\}//p' tests/gpu.sh
        exit 0
        ;;
    -*)
        printf 'gpu: unknown option %s; accepted are --sanitize, --bench, --faults, --help\n' "$argument" >&2
        exit 2
        ;;
    *) build=$argument ;;
    esac
done
if [ -z "$build" ]; then
    build=build/cuda
    [ ! -x bin/lx2v-dit ] || build=. # a bundle
fi
if [ ! -d "$build/tests/gpu" ] || [ ! -x "$build/bin/lx2v-dit" ]; then
    printf 'gpu: no tests in %s: build them with cmake --preset cuda && cmake --build --preset cuda\n' "$build" >&2
    exit 2
fi
build=$(cd -- "$build" && pwd)

passed=0
failed=0
skipped=0
failures=()

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    failures+=("$1")
    printf 'FAILED: %s\n' "$1"
}
skip() {
    skipped=$((skipped + 1))
    printf 'skipped: %s\n' "$1"
}

logs=$(mktemp -d "${TMPDIR:-/tmp}/lx2v-gpu.XXXXXX")
trap 'rm -rf "$logs"' EXIT
export LX2V_TEST_NEEDS_GPU=1
export LX2V_TUNE=off # what somebody measured here does not choose the kernels

# run NAME COMMAND...: its last words are shown if it fails.
run() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$logs/log" 2>&1; then
        pass
        printf '%-28s %4d s\n' "$name" $((SECONDS - start))
    elif [ $? -eq 77 ]; then
        skip "$name: $(tail -n 1 "$logs/log")"
    else
        grep -E 'ERROR|FAILED|Failure|error|=========' "$logs/log" | head -n 30 || tail -n 30 "$logs/log"
        fail "$name"
    fi
    cat "$logs/log" >>"${LX2V_TEST_OUTPUT:-/dev/null}"
}

# racecheck of a test: it passes, and no hazard is in a kernel of ours (k_...). cuBLASLt's kernels copy
# in ways (TMA) that racecheck takes for races, and leaving them out by name crashes it. Of a template
# the name is `void namespace::k_...`.
without_races() {
    LX2V_TEST_SMALL=1 compute-sanitizer --tool racecheck "$1" >"$logs/races" 2>&1
    local code=$?
    if [ "$code" -eq 0 ] && ! grep -E "access at ([^(]*[ :])?k_" "$logs/races"; then
        return 0
    fi
    [ "$code" -eq 77 ] && return 77
    cat "$logs/races"
    return 1
}

# A bundle has none yet.
mkdir -p "$build/models"
[ -e "$build/models/random" ] || "$build/bin/lx2v-mkmodel" "$build/models/random" --preset small --tree --quiet

printf '== tests on the card\n'
for test in "$build"/tests/gpu/test_"$which"*; do
    if [ ! -x "$test" ] || [ -d "$test" ]; then
        continue
    fi
    run "${test##*/}" "$test"
done

if [ -n "$which" ]; then
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ]
    exit
fi

printf '== one clip through the pipeline, every stage on the card\n'
device=cuda:${LX2V_TEST_DEVICE:-0}
"$build/bin/lx2v-mkmodel" "$logs/model" --quiet
cat >"$logs/config.yaml" <<YAML
model: $logs/model
output: {dir: $logs/output}
state: {dir: $logs/state}
defaults: {size: 256x128, frames: 17}
limits: {size: 256x128, frames: 17}
stages:
  encoder: {device: $device}
  dit: {device: $device}
  vae: {device: $device}
YAML
run "pipeline" "$build/bin/lx2v" bench --own --clips 3 --config "$logs/config.yaml"
run "selftest" "$build/bin/lx2v" selftest --config "$logs/config.yaml"

printf '== clips of the demo model, judged\n'
for weights in int8 bf16; do
    folder=$build/models/demo/distill_$weights
    [ "$weights" != bf16 ] || folder=$build/models/demo/distill_models
    if [ -x "$build/tests/lx2v_judge" ] && [ -e "$build/models/demo/made" ] && [ -d "$folder" ]; then
        run "demo model, $weights" tests/judge/demo.sh "$build" --device "$device" --weights "$weights" --seeds 1 \
            --at-least color=0.95,background=0.95,motion=0.95,shape=0.82,all=0.82 --flicker 0.34
        printf '  %s\n' "$(tail -n 1 "$logs/log")"
    else
        skip "demo model, $weights: no lx2v_judge or no ${folder#"$build"/} in $build"
    fi
done

if [ "$sanitize" -eq 1 ]; then
    if command -v compute-sanitizer >/dev/null; then
        for family in rows colour conv attention attention_raw attention_fp8 attention_wgmma \
            linear linear_bf16 linear_fp8 linear_int8; do
            printf '== compute-sanitizer: %s\n' "$family"
            run "memcheck of $family" env LX2V_TEST_SMALL=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
                "$build/tests/gpu/test_cuda_$family"
            run "racecheck of $family" without_races "$build/tests/gpu/test_cuda_$family"
        done
    else
        skip "compute-sanitizer: not installed (it comes with the CUDA toolkit)"
    fi
fi

if [ "$bench" -eq 1 ]; then
    for family in linear linear_bf16 linear_fp8 linear_int8 rows attention conv; do
        printf '== bench: %s\n' "$family"
        code=0
        "$build/tests/gpu/test_cuda_$family" --bench || code=$?
        case $code in
        0) ;;
        77) skip "bench of $family" ;;
        *) fail "bench of $family" ;;
        esac
    done
fi

if [ ${#failures[@]} -gt 0 ]; then
    printf '\nfailed:\n'
    printf '  %s\n' "${failures[@]}"
fi
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
