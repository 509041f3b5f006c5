#!/usr/bin/env bash
# analyze.sh - a compiler launcher: clang's static analyser first, then the compiler itself
# SPDX-License-Identifier: Apache-2.0
#
# Given to CMake as CMAKE_C_COMPILER_LAUNCHER. A finding is an error, with the path that leads to it.
set -euo pipefail

case " $* " in
*" -c "*) "$@" --analyze -Xclang -analyzer-output=text -Xclang -analyzer-werror -o /dev/null ;;
esac
exec "$@"
