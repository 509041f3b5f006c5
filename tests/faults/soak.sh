#!/usr/bin/env bash
# soak.sh - many small jobs while processes are killed at random; not part of tests/run.sh
# SPDX-License-Identifier: Apache-2.0
#
#   tests/faults/soak.sh [--jobs 1000] [--every SECONDS] [--seed N] [--launcher]   in build/release
#   BUILD=DIR tests/faults/soak.sh ...                                             in another build tree
#
# Builds what it needs, runs tests/faults/soak.c and ends with its exit code: 0 if no job was lost,
# doubled, partial or different, and nothing leaked.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
build=${BUILD:-build/release}
if [ ! -f "$build/build.ninja" ]; then
    cmake --preset release -B "$build" >/dev/null
fi
cmake --build "$build" --target soak >/dev/null
exec "$build/tests/faults/soak" "$@"
