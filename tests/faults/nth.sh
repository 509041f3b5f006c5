#!/usr/bin/env bash
# nth.sh - every fault point at every visit, until a clean pass (test_every_point.c says how)
# SPDX-License-Identifier: Apache-2.0
#
#   tests/faults/nth.sh [--each] [BUILD]    BUILD: a tree with fault points; build/faults
#
# --each: at start, too, every visit and not some; about half an hour. Exit code 0: all holds.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
how=all
if [ "${1:-}" = --each ]; then
    how=each
    shift
fi
build=${1:-build/faults}
LX2V_EVERY_POINT=$how exec "$build/tests/faults/test_every_point"
