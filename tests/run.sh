#!/usr/bin/env bash
# run.sh - install, build and test everything
# SPDX-License-Identifier: Apache-2.0
#
#   tests/run.sh           all of it: form, release, sanitizers, fuzzing, analysis
#   tests/run.sh --quick   the release build and its tests
#   tests/run.sh --bundle  the release build and tests/bundle.sh, which bundles it
#   tests/run.sh --gpu     on a machine with an NVIDIA card: the CUDA build and the tests on the card
#   tests/run.sh --keep    keep the build trees of sanitizers and fuzzing (gigabytes)
#
# Ends with one line, `N passed, N failed, N skipped`, and exit code 0 only if nothing failed. What
# is skipped is named with its reason.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
quick=0
bundle=0
gpu=0
keep=0
for argument in "$@"; do
    case $argument in
    --quick) quick=1 ;;
    --bundle) bundle=1 ;;
    --gpu) gpu=1 ;;
    --keep) keep=1 ;;
    -h | --help)
        sed -n '2,12s/^# \{0,1\}//p' tests/run.sh
        exit 0
        ;;
    *)
        printf 'run: unknown option %s; accepted are --quick, --bundle, --gpu, --keep, --help\n' "$argument" >&2
        exit 2
        ;;
    esac
done

jobs=$(nproc)
passed=0
failed=0
skipped=0
failures=()
skips=()
logs=build/logs
fuzz_seconds=15

say() { printf '\n== %s (%d s so far)\n' "$*" "$SECONDS"; }

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    failures+=("$1")
    printf 'FAILED: %s\n' "$1"
}
skip() {
    skipped=$((skipped + 1))
    skips+=("$1")
    printf 'skipped: %s\n' "$1"
}

finish() {
    if [ ${#skips[@]} -gt 0 ]; then
        printf '\nskipped:\n'
        printf '  %s\n' "${skips[@]}"
    fi
    if [ ${#failures[@]} -gt 0 ]; then
        printf '\nfailed:\n'
        printf '  %s\n' "${failures[@]}"
    fi
    if [ "$keep" -eq 0 ]; then
        rm -rf build/faults build/asan build/tsan build/fuzz
    fi
    printf '\n%d seconds\n%d passed, %d failed, %d skipped\n' "$SECONDS" "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ] || exit 1
    exit 0
}

# build NAME [cmake options]: configure by the preset of that name and compile. Its last words are
# shown if that fails.
build() {
    local name=$1 log=$logs/build-$1.log
    shift
    say "building $name"
    if cmake --preset "$name" "$@" >"$log" 2>&1 && cmake --build "build/$name" -j "$jobs" >>"$log" 2>&1; then
        pass
        return 0
    fi
    grep -E -A 6 'error:|warning:|Error|FAILED' "$log" | tail -n 40 || tail -n 40 "$log"
    fail "build $name (whole log: $log)"
    return 1
}

# Add CTest's own count of a run to the totals, and name what was skipped or failed.
count() { # name junit-file
    local name=$1 junit=$2 test status
    if [ ! -s "$junit" ]; then
        fail "$name: ctest left no result"
        return
    fi
    while read -r test status; do
        case $status in
        run) pass ;;
        notrun | disabled) skip "$name: $test" ;;
        *) fail "$name: $test" ;;
        esac
    done < <(sed -n 's/.*<testcase name="\([^"]*\)".* status="\([^"]*\)".*/\1 \2/p' "$junit")
    # cmocka's skip() inside a program that ran and passed as a whole
    while read -r test; do
        skip "$name: $test"
    done < <(awk '/<testcase / { ran = /status="run"/ }
                  ran && match($0, /\[  SKIPPED \] test_[A-Za-z0-9_]+/) { print substr($0, RSTART + 13, RLENGTH - 13) }' \
        "$junit" | sort -u)
}

# run_tests NAME [ctest options]: the tests of a build tree.
run_tests() {
    local name=$1 junit=$PWD/$logs/$1.xml
    shift
    say "testing $name"
    rm -f "$junit"
    ctest --test-dir "build/$name" -j 2 --output-on-failure --no-tests=error --test-output-size-passed 1000000 --output-junit "$junit" "$@" 2>&1 |
        grep -v -E '^ *Start +[0-9]+:' || true # the junit file decides, not grep
    count "$name" "$junit"
}

# --- steps ---------------------------------------------------------------------------------------

# The CUDA code for one GeForce and one Hopper architecture, where there is a CUDA compiler: that it
# compiles is all that can be seen without a card.
compile_cuda() {
    local nvcc release
    nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
    if [ -z "$nvcc" ]; then
        skip "CUDA: no CUDA compiler on this machine"
        return
    fi
    release=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]\).*/\1\2/p') # 12.4: 124
    if [ "${release:-0}" -lt 124 ]; then
        skip "CUDA: $nvcc is older than 12.4"
        return
    fi
    if ! command -v g++ >/dev/null || ! echo '#include <cublasLt.h>' | "$nvcc" -x cu -E - >/dev/null 2>&1; then
        skip "CUDA: $nvcc is there, but not both g++ and cublasLt.h"
        return
    fi
    say "compiling the CUDA module for sm_86 and sm_90a"
    if cmake --preset cuda "-DLX2V_ARCHS=86;90a" -DLX2V_WERROR=ON >"$logs/build-cuda.log" 2>&1 &&
        cmake --build build/cuda -j "$jobs" --target lx2v_cuda >>"$logs/build-cuda.log" 2>&1; then
        pass
    else
        grep -E -A 6 'error|FAILED' "$logs/build-cuda.log" | tail -n 40
        fail "compiling the CUDA module (whole log: $logs/build-cuda.log)"
    fi
}

fuzz() {
    local target name running=0 i=0
    local -a names=() pids=()
    say "fuzzing, $fuzz_seconds s a target"
    mkdir -p build/fuzz/work
    for target in build/fuzz/tests/fuzz/fuzz_*; do
        if [ ! -x "$target" ] || [ -d "$target" ]; then
            continue
        fi
        name=${target##*/}
        rm -rf "build/fuzz/work/$name"
        mkdir -p "build/fuzz/work/$name"
        "$target" -max_total_time="$fuzz_seconds" -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
            -artifact_prefix="build/fuzz/work/$name." "build/fuzz/work/$name" "tests/fuzz/corpus/${name#fuzz_}" \
            >"$logs/$name.log" 2>&1 &
        names+=("$name")
        pids+=($!)
        running=$((running + 1))
        if [ "$running" -ge "$jobs" ]; then
            collect "${pids[$i]}" "${names[$i]}"
            i=$((i + 1))
            running=$((running - 1))
        fi
    done
    if [ ${#names[@]} -eq 0 ]; then
        fail "fuzzing: no targets were built"
        return
    fi
    for (( ; i < ${#names[@]}; i++)); do
        collect "${pids[$i]}" "${names[$i]}"
    done
}

collect() { # pid name: one fuzzer's end
    if wait "$1"; then
        printf '%s: %s inputs\n' "$2" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/$2.log")"
        pass
    else
        tail -n 30 "$logs/$2.log"
        fail "$2 (finding: build/fuzz/work/$2.*; run again with --keep)"
    fi
}

check_form() {
    local files long version
    say "form: clang-format, line length, shell scripts"
    mapfile -t files < <(git ls-files '*.c' '*.h' 2>/dev/null || true)
    if [ ${#files[@]} -eq 0 ]; then # not a git checkout
        mapfile -t files < <(find common deploy kernels stages tests -name '*.[ch]')
    fi
    # Releases of clang-format lay out some lines differently: the tree is in the form of one.
    version=$(clang-format --version | sed -n 's/.*version \([0-9]*\).*/\1/p')
    if [ "$version" != 14 ]; then
        skip "clang-format: the tree is formatted by version 14, here is $version"
    elif clang-format --dry-run -Werror "${files[@]}" >"$logs/format.log" 2>&1; then
        pass
    else
        grep -E 'error' "$logs/format.log" | head -n 20
        fail "clang-format (run: clang-format -i FILE)"
    fi
    mapfile -t -O "${#files[@]}" files < <(find kernels -name '*.cu' -o -name '*.cuh')
    long=$(LC_ALL=C.UTF-8 grep -nE '^.{101,}$' "${files[@]}" || true)
    if [ -z "$long" ]; then
        pass
    else
        printf '%s\n' "$long" | head -n 20
        fail "lines of more than 100 columns"
    fi
    if shellcheck deploy/*.sh deploy/bundle/*.sh deploy/bundle/lx2v-check deploy/bundle/run-tests tests/*.sh tests/faults/*.sh tests/tools/*.sh \
        .ci/run; then
        pass
    else
        fail "shellcheck"
    fi
}

# The units are understood, and the machine's leaves a service little (10: an exposure of 1.0).
check_units() {
    local unit folder
    say "units: systemd-analyze"
    if ! systemd-analyze security --help 2>/dev/null | grep -q -e --offline; then
        skip "systemd units: no systemd-analyze that reads files (systemd 250 or later)"
        return
    fi
    folder=$(mktemp -d "${TMPDIR:-/tmp}/lx2v-units.XXXXXX")
    for unit in lx2v lx2v-user; do
        sed "s|^ExecStart=[^ ]*|ExecStart=$PWD/build/release/bin/lx2v-launch|" "deploy/systemd/$unit.service" >"$folder/$unit.service"
        # Of the unit itself: what it refers to on this machine is not ours.
        if systemd-analyze verify --man=no --recursive-errors=no "$folder/$unit.service" >"$logs/units.log" 2>&1 &&
            ! grep -F "$unit.service" "$logs/units.log"; then
            pass
        else
            cat "$logs/units.log"
            fail "systemd-analyze verify deploy/systemd/$unit.service"
        fi
    done
    if systemd-analyze security --offline=yes --threshold=10 "$folder/lx2v.service" >"$logs/units.log" 2>&1; then
        tail -n 1 "$logs/units.log"
        pass
    else
        tail -n 5 "$logs/units.log"
        fail "systemd-analyze security deploy/systemd/lx2v.service"
    fi
    rm -rf "$folder"
}

# --- all -----------------------------------------------------------------------------------------

say "packages"
bash deploy/packages.sh --test
mkdir -p "$logs"

if [ "$gpu" -eq 1 ]; then
    build cuda -DLX2V_WERROR=ON || finish
    say "testing on the card"
    if bash tests/gpu.sh --sanitize build/cuda 2>&1 | tee "$logs/gpu.log"; then
        pass
    else
        fail "tests/gpu.sh (its words: $logs/gpu.log)"
    fi
    finish
fi
if [ "$bundle" -eq 0 ] && [ "$quick" -eq 0 ]; then # takes seconds, so it comes first
    check_form
fi
build release -DLX2V_WERROR=ON || finish
if [ "$bundle" -eq 1 ]; then
    say "bundling, and using the bundle elsewhere"
    if bash tests/bundle.sh --build build/release 2>&1 | tee "$logs/bundle.log"; then
        pass
    else
        fail "tests/bundle.sh (its words: $logs/bundle.log)"
    fi
    finish
fi
run_tests release -LE '^faults$' # those have a build of their own
skip "GPU: tests on a card run with tests/run.sh --gpu"
if [ "$quick" -eq 1 ]; then
    finish
fi
check_units
compile_cuda

# As released but for the points where tests break things.
say "building what faults are put into"
if cmake --preset faults -DLX2V_WERROR=ON >"$logs/build-faults.log" 2>&1 &&
    cmake --build --preset faults -j "$jobs" >>"$logs/build-faults.log" 2>&1; then
    pass
    run_tests faults -L '^faults$'
else
    grep -E -A 6 'error:|warning:|Error|FAILED' "$logs/build-faults.log" | tail -n 40
    fail "build faults (whole log: $logs/build-faults.log)"
fi

export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
export UBSAN_OPTIONS=print_stacktrace=1
# Without -Werror: what gcc warns of under a sanitizer is often the sanitizer's own doing.
if build asan; then
    # Memory is used alike whichever instructions compute: those of this machine will do. The plan
    # of every rig takes minutes there, and is made by the stages that the other tests start as well;
    # the demo model's clips too, and its code is that of every clip.
    run_tests asan -L '^(unit|launcher|kernels|stages|pipeline|fuzz|judge)$' -E '\.(AVX2|AVX512_CORE)$|launcher.test_plan|pipeline.test_demo'
fi
# Under the thread sanitizer all numeric work is on one thread: what does nothing else shows nothing
# there, and takes minutes.
if build tsan; then
    run_tests tsan -R '^(unit|launcher)\.|^kernels.test_residency$|^stages.test_.*_(stage|run)$|^pipeline.test_(clip|life|memory|orders|shared_weights|transports)$' \
        -E 'launcher.test_plan|unit.test_(convert|mkmodel|rng|writer)'
fi

say "building with clang, its analyser and libFuzzer"
export LX2V_FINDINGS=$PWD/$logs/analyzer.log
: >"$LX2V_FINDINGS"
rm -rf build/fuzz # what is not compiled is not analysed
if cmake -S . -B build/fuzz -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang -DLX2V_FUZZ=ON \
    -DLX2V_CUDA=OFF -DLX2V_WERROR=ON -DCMAKE_C_COMPILER_LAUNCHER="$PWD/tests/tools/analyze.sh" >"$logs/build-fuzz.log" 2>&1 &&
    cmake --build build/fuzz -j "$jobs" >>"$logs/build-fuzz.log" 2>&1; then
    pass
    fuzz
else
    grep -E -A 12 'error:|warning:|Error' "$logs/build-fuzz.log" | head -n 60
    fail "building with clang and libFuzzer (whole log: $logs/build-fuzz.log)"
fi
if [ -s "$LX2V_FINDINGS" ]; then
    head -n 60 "$LX2V_FINDINGS"
    fail "clang --analyze (all findings: $logs/analyzer.log)"
else
    pass
fi
finish
