#!/usr/bin/env bash
# bundle.sh - does the bundle run where nothing of ours is installed, and say what is missing?
# SPDX-License-Identifier: Apache-2.0
#
#   tests/bundle.sh [--build DIR] [--system DIR ...] [--keep]
#     --build DIR    the build tree that is bundled; default: build/release
#     --system DIR   also run it inside this bare system, such as debootstrap --variant=minbase
#                    makes (several may be given; needs root)
#     --keep         keep the archives in build/test-bundle
#
# Makes the bundle with the distribution's libraries and the slim one, holds both to their sizes,
# unpacks them elsewhere, makes a clip from each and compares it with one from the build tree, and
# looks at what a user sees when something is missing or too old. Ends with one line, `N passed, N
# failed, N skipped`.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
tree=build/release
systems=()
keep=0
while [ $# -gt 0 ]; do
    case $1 in
    --build | --system)
        [ $# -ge 2 ] || { printf 'bundle: %s needs a folder\n' "$1" >&2 && exit 2; }
        if [ "$1" = --build ]; then
            tree=$2
        else
            systems+=("$2")
        fi
        shift
        ;;
    --keep) keep=1 ;;
    -h | --help)
        sed -n '2,14s/^# \{0,1\}//p' tests/bundle.sh
        exit 0
        ;;
    *)
        printf 'bundle: unknown option %s; accepted are --build, --system, --keep, --help\n' "$1" >&2
        exit 2
        ;;
    esac
    shift
done

largest=90000000      # bytes, with the distribution's libraries
largest_slim=30000000 # bytes, the one that travels
passed=0
failed=0
skipped=0
archives=$PWD/build/test-bundle
elsewhere=$(mktemp -d /tmp/lx2v-elsewhere.XXXXXX)
clean=(env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin)
clip_script=$PWD/tests/tools/in_bundle.sh

finish() {
    rm -rf "$elsewhere"
    [ "$keep" -eq 1 ] || rm -rf "$archives"
}
trap finish EXIT

pass() {
    passed=$((passed + 1))
    printf 'passed: %s\n' "$*"
}
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$*"
}

# --- one bundle ----------------------------------------------------------------------------------

make_bundle() { # name limit-in-bytes options: unpacked under $elsewhere/name
    local name=$1 limit=$2 archive bytes
    shift 2
    if ! archive=$(deploy/bundle.sh --build "$tree" --output "$archives" "$@"); then
        fail "$name: deploy/bundle.sh"
        return 1
    fi
    bytes=$(stat -c %s "$archive")
    if [ "$bytes" -le "$limit" ]; then
        pass "$name: $bytes bytes, allowed are $limit"
    else
        fail "$name: $bytes bytes, allowed are $limit"
    fi
    mkdir "$elsewhere/$name"
    tar -xf "$archive" -C "$elsewhere/$name" --strip-components=1
}

# The loader's own account: every library of every program from the bundle, or glibc's.
check_libraries() { # name
    local program strangers all=""
    for program in "$elsewhere/$1"/bin/lx2v*; do
        [ "${program##*/}" != lx2v-check ] || continue
        strangers=$("${clean[@]}" LD_TRACE_LOADED_OBJECTS=1 "$program" |
            grep -v -E "=> $elsewhere/$1/bin/\.\./lib/|linux-vdso|ld-linux-x86-64|^.lib(c|m|mvec|pthread|dl|rt|resolv)\.so\.[0-9] => " || true)
        all+=$strangers
    done
    if [ -z "$all" ]; then
        pass "$1: the programs load nothing but the bundle and glibc"
    else
        fail "$1: from outside the bundle: $all"
    fi
}

make_clip() { # name system: "" is this one
    local name=$1 system=$2 where=$elsewhere/$1 clip
    clip=$elsewhere/$name${system:+-${system##*/}}.mp4
    if [ -z "$system" ]; then
        "${clean[@]}" sh "$clip_script" "$where" "$clip"
    else
        rm -rf "$system/opt/lx2v-bundle"
        mkdir -p "$system/opt/lx2v-bundle"
        cp -R "$where" "$clip_script" "$system/opt/lx2v-bundle/"
        # Mounts of a namespace of its own: they end with it, whatever happens.
        # shellcheck disable=SC2016 # for the inner shell
        unshare --mount sh -c 'mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && shift &&
            exec chroot "$@"' sh "$system" "$system" "${clean[@]}" sh /opt/lx2v-bundle/in_bundle.sh \
            "/opt/lx2v-bundle/$name" /opt/lx2v-bundle/clip.mp4 && mv "$system/opt/lx2v-bundle/clip.mp4" "$clip"
    fi || {
        fail "$name: a clip${system:+ in $system}"
        rm -rf "${system:+$system/opt/lx2v-bundle}"
        return
    }
    rm -rf "${system:+$system/opt/lx2v-bundle}"
    if cmp "$clip" "$elsewhere/here.mp4"; then
        pass "$name: a clip${system:+ in $system}, the same bytes as from the build tree"
    else
        fail "$name: the clip${system:+ in $system} is not that of the build tree"
    fi
}

# The clip that the build tree makes, with the libraries of this machine: the tree gets a bundle's
# shape by links.
make_reference() {
    local shape=$elsewhere/tree
    mkdir -p "$shape/bin" "$shape/lib" "$shape/share/lx2v"
    cp "$tree"/bin/lx2v* "$shape/bin/"
    printf '#!/bin/sh\n' >"$shape/bin/lx2v-check"
    chmod +x "$shape/bin/lx2v-check"
    cp "$elsewhere/slim/share/lx2v/config.yaml" "$shape/share/lx2v/"
    ln -s "$PWD/$tree/models" "$shape/models"
    # Its libraries are this machine's, which is what the script must find.
    if "${clean[@]}" sh "$clip_script" "$shape" "$elsewhere/here.mp4" >"$elsewhere/said" 2>&1; then
        fail "the look at the loaded files finds nothing in the build tree's processes, which load this machine's libraries"
    elif grep -q 'loaded from outside the bundle' "$elsewhere/said" && [ -s "$elsewhere/here.mp4" ]; then
        pass "the look at the loaded files finds this machine's libraries in the build tree's processes"
    else
        cat "$elsewhere/said"
        fail "no clip from the build tree"
    fi
}

# --- what a user sees ----------------------------------------------------------------------------

# says NAME PATTERN COMMAND...: exit code 2 and one line that matches.
says() {
    local name=$1 pattern=$2 said code=0
    shift 2
    said=$("$@" 2>&1) || code=$?
    if [ "$code" -eq 2 ] && [ "$(printf '%s\n' "$said" | wc -l)" -eq 1 ] && printf '%s\n' "$said" | grep -Eq "$pattern"; then
        pass "$name: $said"
    else
        fail "$name: exit code $code, expected one line like \"$pattern\": $said"
    fi
}

# A command found before the system's, that prints one line.
pretend() { # command line
    mkdir -p "$elsewhere/pretended"
    printf '#!/bin/sh\necho "%s"\n' "$2" >"$elsewhere/pretended/$1"
    chmod +x "$elsewhere/pretended/$1"
}

check_words() {
    local bundle=$elsewhere/slim
    local pretended=(env -i "PATH=$elsewhere/pretended:/usr/sbin:/usr/bin:/sbin:/bin")
    mkdir "$elsewhere/hidden"

    mv "$bundle"/lib/libx264.so.* "$elsewhere/hidden/"
    says "a library is missing" 'lib/libx264\.so\.[0-9]+ is missing, needed with [0-9]+ bytes' \
        "${clean[@]}" "$bundle/bin/lx2v-check"
    mv "$elsewhere"/hidden/libx264.so.* "$bundle/lib/"

    cp "$bundle/lib/libzmq.so.5" "$elsewhere/hidden/"
    truncate -s 1000 "$bundle/lib/libzmq.so.5"
    says "a library is torn" 'lib/libzmq\.so\.5: found 1000 bytes, needed [0-9]+' "${clean[@]}" "$bundle/bin/lx2v-check"
    mv "$elsewhere/hidden/libzmq.so.5" "$bundle/lib/"

    pretend getconf "glibc 2.31"
    says "glibc is too old" 'found glibc 2\.31, needed 2\.[0-9]+ or newer' "${pretended[@]}" "$bundle/bin/lx2v-check"
    rm "$elsewhere/pretended/getconf"
}

# A program that the loader refuses: the launcher says so once, and ends.
check_launcher() {
    local bundle=$elsewhere/slim work=$elsewhere/broken code=0
    cp -R "$bundle" "$work"
    patchelf --replace-needed "$(basename "$work"/lib/libx264.so.*)" libx264.so.0 "$work/lib/libavcodec.so."*
    cp "$work/share/lx2v/config.yaml" "$work/"
    timeout 60 "${clean[@]}" "$work/bin/lx2v-launch" "$work/config.yaml" >"$elsewhere/said" 2>&1 || code=$?
    if [ "$code" -eq 2 ] && [ "$(grep -c 'libx264.so.0: cannot open shared object' "$elsewhere/said")" -eq 1 ]; then
        pass "a stage that cannot be loaded ends the launcher: $(grep 'libx264.so.0' "$elsewhere/said")"
    else
        fail "a stage that cannot be loaded: exit code $code"
        tail -n 20 "$elsewhere/said"
    fi
    rm -rf "$work"
}

check_card_words() {
    local bundle=$elsewhere/slim needed
    local pretended=(env -i "PATH=$elsewhere/pretended:/usr/sbin:/usr/bin:/sbin:/bin")
    printf 'stages:\n  dit: {device: cuda:0}\n' >"$elsewhere/card.yaml"
    needed=$(sed -n 's/^driver //p' "$bundle/share/lx2v/requires")
    if [ -z "$needed" ]; then
        says "the bundle has no CUDA module" 'found no CUDA module in this bundle, needed for device: cuda' \
            "${clean[@]}" "$bundle/bin/lx2v-check" "$elsewhere/card.yaml"
    elif [ -e /proc/driver/nvidia/version ]; then
        skipped=$((skipped + 1))
        printf 'skipped: the words about an old driver: this machine has a driver\n'
    else
        says "there is no driver" "found no NVIDIA driver, needed $needed or newer" \
            "${clean[@]}" "$bundle/bin/lx2v-check" "$elsewhere/card.yaml"
        pretend nvidia-smi 470.57.02
        says "the driver is too old" "found NVIDIA driver 470\.57\.02, needed $needed or newer" \
            "${pretended[@]}" "$bundle/bin/lx2v-check" "$elsewhere/card.yaml"
        rm "$elsewhere/pretended/nvidia-smi"
    fi
    pass_if_ok "a config without a card needs no driver" "${clean[@]}" "$bundle/bin/lx2v-check" "$bundle/share/lx2v/config.yaml"
}

pass_if_ok() { # name command
    local name=$1 said
    shift
    if said=$("$@" 2>&1) && [ "${said#ok: }" != "$said" ]; then
        pass "$name: $said"
    else
        fail "$name: $said"
    fi
}

# --- all -----------------------------------------------------------------------------------------

bash deploy/packages.sh --bundle
mkdir -p "$archives"
if make_bundle slim "$largest_slim" --slim && make_bundle whole "$largest"; then
    make_reference
    for name in slim whole; do
        check_libraries "$name"
        make_clip "$name" ""
        for system in "${systems[@]}"; do
            make_clip "$name" "$system"
        done
    done
    check_words
    check_launcher
    check_card_words
fi
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
