#!/usr/bin/env bash
# demo.sh - what the judge says of the demo model's clips of all 128 held-out prompts
# SPDX-License-Identifier: Apache-2.0
#
#   tests/judge/demo.sh [BUILD] [--weights int8|fp8|bf16] [--device cpu|cuda:N] [--seeds N]
#                       [--first-seed S] [--keep DIR] [--at-least WORD=SHARE,...] [--flicker MOST]
#
# Starts the pipeline of BUILD (default build/release), every stage on the device (default cpu),
# makes every clip of models/demo/judge/held_out.jsonl with N seeds (default 2), and prints the
# shares that are right of colour, background, motion, shape, and of all four. --keep leaves clips
# and verdicts in DIR. Exit status 1: a share is below what --at-least says (lx2v_judge's words),
# or clips flicker more than --flicker.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
build=$root/build/release
weights=int8
seeds=2
first=1000
device=cpu
least=
flicker=
keep=
while [ $# -gt 0 ]; do
    case $1 in
    --weights | --device | --seeds | --first-seed | --keep | --at-least | --flicker)
        if [ $# -lt 2 ]; then
            printf 'demo: %s needs a value; see --help\n' "$1" >&2
            exit 2
        fi
        ;;&
    --weights) weights=$2 && shift ;;
    --device) device=$2 && shift ;;
    --seeds) seeds=$2 && shift ;;
    --first-seed) first=$2 && shift ;;
    --keep) keep=$2 && shift ;;
    --at-least) least=$2 && shift ;;
    --flicker) flicker=$2 && shift ;;
    -h | --help)
        sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    -*)
        printf 'demo: unknown option %s; see --help\n' "$1" >&2
        exit 2
        ;;
    *) build=$(cd -- "$1" && pwd) ;;
    esac
    shift
done
truths=$root/models/demo/judge/held_out.jsonl
case $weights in
int8 | fp8) model=$build/models/demo/distill_$weights ;;
bf16) model=$build/models/demo/distill_models ;;
*)
    printf 'demo: --weights %s: int8, fp8 or bf16\n' "$weights" >&2
    exit 2
    ;;
esac
if [ ! -e "$build/models/demo/made" ] || [ ! -x "$build/tests/lx2v_judge" ]; then
    printf 'demo: %s has no demo model or no lx2v_judge: cmake --build it first\n' "$build" >&2
    exit 2
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/lx2v-demo.XXXXXX")
launcher=
finish() {
    if [ -n "$launcher" ]; then
        "$build/bin/lx2v" shutdown --config "$work/config.yaml" >/dev/null 2>&1 ||
            kill "$launcher" || true
        wait "$launcher" || true
    fi
    rm -rf "$work"
}
trap finish EXIT
out=${keep:-$work/clips}
mkdir -p "$out"
out=$(cd -- "$out" && pwd)
cat >"$work/config.yaml" <<YAML
model: {dir: $model, tokenizer: $build/models/demo/google/umt5-xxl}
output: {dir: $out, overwrite: true}
state: {dir: $work/state}
defaults: {size: 128x128, frames: 33}
limits: {size: 128x128, frames: 33}
stages: {encoder: {device: "$device"}, dit: {device: "$device"}, vae: {device: "$device"}}
YAML

# One job a line; the judge takes clips by name, so all prompts with the first seed come first.
: >"$work/truths.jsonl"
number=0
for ((s = 0; s < seeds; s++)); do
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$work/truths.jsonl"
        prompt=$(sed -E 's/^\{("prompt": ".*"), "objects": .*/\1/' <<<"$line")
        printf '{%s, "seed": %d, "name": "demo-%04d"}\n' "$prompt" $((first + number)) "$number"
        number=$((number + 1))
    done <"$truths" >"$work/jobs-$s.jsonl"
done

"$build/bin/lx2v-launch" "$work/config.yaml" >"$work/said" 2>"$work/log" &
launcher=$!
for ((i = 0; i < 600; i++)); do
    if grep -q '^ready' "$work/said"; then
        break
    fi
    if ! kill -0 "$launcher" 2>/dev/null; then
        launcher=
        tail -n 5 "$work/log" >&2
        exit 1
    fi
    sleep 0.1
done
if ! grep -q '^ready' "$work/said"; then
    printf 'demo: not ready after 60 s; its last words:\n' >&2
    tail -n 5 "$work/log" >&2
    exit 1
fi
for ((s = 0; s < seeds; s++)); do
    if ! "$build/bin/lx2v" submit --config "$work/config.yaml" --wait --file "$work/jobs-$s.jsonl" \
        >/dev/null 2>"$work/submit"; then
        tail -n 5 "$work/submit" >&2
        exit 1
    fi
done
cp "$work/truths.jsonl" "$out/truths.jsonl"
code=0
"$build/tests/lx2v_judge" ${least:+--at-least "$least"} ${flicker:+--flicker "$flicker"} \
    --expect "$out/truths.jsonl" "$out" >"$out/verdicts.jsonl" || code=$?
printf '%s on %s, %d clips: ' "$weights" "$device" "$number"
tail -n 1 "$out/verdicts.jsonl"
[ "$code" -eq 0 ]
