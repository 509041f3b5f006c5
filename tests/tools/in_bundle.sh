#!/bin/sh
# in_bundle.sh - one clip from an unpacked bundle, and what its processes loaded meanwhile
# SPDX-License-Identifier: Apache-2.0
#
#   in_bundle.sh BUNDLE CLIP
#
# Needs nothing but a POSIX shell, coreutils, grep and sed: it also runs in a bare system. BUNDLE is
# the unpacked folder, CLIP the file to be made. Exit code 0 only if the clip is there and no process
# of the pipeline had a file mapped from outside the bundle but those of glibc.
set -eu

bundle=$(CDPATH='' cd -- "$1" && pwd)
clip=$2
work=$(mktemp -d)
launcher=""
finish() {
    code=$?
    trap - EXIT
    [ -z "$launcher" ] || kill "$launcher" 2>/dev/null || true
    [ "$code" -eq 0 ] || cat "$work/log" 2>/dev/null || true
    rm -rf "$work"
    exit "$code"
}
trap finish EXIT

# Executable code mapped by process $1 that is neither ours nor glibc's.
strangers() {
    sed -n 's/^[^ ]* ..x[^ ]* [^ ]* [^ ]* [^ ]* *\(\/.*\)$/\1/p' "/proc/$1/maps" | sort -u |
        grep -v -E "^$bundle/(bin|lib)/" |
        grep -v -E '/(ld-linux-x86-64\.so\.2|ld-[0-9.]+\.so|lib(c|m|mvec|pthread|dl|rt|resolv|util|anl|nss_[a-z]+)(-[0-9.]+)?\.so[.0-9]*)$' || true
}

# The state and the parent follow the name, which is in parentheses and may hold blanks.
is_child() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | grep -q "^[A-Z] $launcher "; }

"$bundle/bin/lx2v-check"
cp "$bundle/share/lx2v/config.yaml" "$work/"
ln -s "$bundle/models" "$work/models"
mkfifo "$work/out"
: >"$work/log"
"$bundle/bin/lx2v-launch" "$work/config.yaml" >"$work/out" 2>"$work/log" &
launcher=$!
endpoint=""
exec 3<"$work/out" # open until the launcher has ended
while read -r line <&3; do
    case $line in
    "ready endpoint="*)
        endpoint=${line#ready endpoint=}
        break
        ;;
    esac
done
[ -n "$endpoint" ] || { echo "the launcher ended before it was ready" && exit 1; }

"$bundle/bin/lx2v" submit --endpoint "$endpoint" --wait --seed 42 -o "$clip" -- "a red ball" >"$work/said" 2>&1 ||
    { cat "$work/said" && exit 1; }
n=0
for process in "$launcher" $(ls /proc); do
    case $process in *[!0-9]*) continue ;; esac
    [ "$process" = "$launcher" ] && [ "$n" -gt 0 ] && continue
    if [ "$process" = "$launcher" ] || is_child "$process"; then
        n=$((n + 1))
        found=$(strangers "$process")
        [ -z "$found" ] || { echo "$(cat "/proc/$process/comm") loaded from outside the bundle: $found" && exit 1; }
    fi
done
[ "$n" -eq 5 ] || { echo "$n processes were looked at, the launcher and its four stages are 5" && exit 1; }
"$bundle/bin/lx2v" shutdown --endpoint "$endpoint" >/dev/null
wait "$launcher"
launcher=""
[ -s "$clip" ] || { echo "$clip is missing or empty" && exit 1; }
echo "clip of $(wc -c <"$clip") bytes; $n processes loaded nothing but the bundle and glibc"
