#!/usr/bin/env bash
# ffmpeg.sh - FFmpeg's libraries with only what lx2v uses, from the distribution's own source
# SPDX-License-Identifier: Apache-2.0
#
#   deploy/bundle/ffmpeg.sh     prints the folder with libavcodec.so.N and its siblings
#
# For deploy/bundle.sh --slim. The source package is that of the installed libavcodec, so names,
# versions and interfaces of the libraries stay those that lx2v was linked with. Built once: the
# result is kept in $LX2V_BUNDLE_CACHE, without it in ~/.cache/lx2v/bundle. The system's package
# sources are read, not changed.
set -euo pipefail

say() { printf 'bundle: %s\n' "$*" >&2; }
die() {
    printf 'bundle: %s\n' "$*" >&2
    exit 1
}

# libx264 and PNG out; H.264 in, for contact sheets and `lx2v-mux check`, PNG in, for the tests; mp4
# out, and in to read back what was written.
options=(
    --prefix=/ --libdir=/lib
    --disable-everything --disable-autodetect --disable-programs --disable-doc --disable-debug
    --disable-avdevice --disable-avfilter --disable-swresample --disable-network
    --enable-gpl --enable-libx264 --enable-zlib --enable-shared --disable-static --toolchain=hardened
    "--enable-encoder=libx264,png" "--enable-decoder=h264,png" "--enable-parser=h264,png"
    --enable-muxer=mp4 "--enable-demuxer=mov,image_png_pipe" --enable-protocol=file
)

# Prints PACKAGE and VERSION of the source that the installed libavcodec was built from.
source_of_libavcodec() {
    local file package
    file=$(pkg-config --variable=libdir libavcodec)/libavcodec.so
    package=$(dpkg-query -S "$(readlink -f "$file")" "$file" 2>/dev/null | sed -n '1s/:.*//p')
    [ -n "$package" ] || die "$file belongs to no package of the distribution: --slim cannot find its source"
    dpkg-query -W -f '${source:Package} ${source:Version}\n' "$package" | head -n 1
}

# An apt that knows the distribution's source packages, with everything it writes under $1.
make_apt() {
    local root=$1 key signed=""
    mkdir -p "$root/lists/partial" "$root/cache/archives/partial"
    # shellcheck disable=SC1091 # a file of the distribution
    key=/usr/share/keyrings/$(. /etc/os-release && printf '%s' "$ID")-archive-keyring.gpg
    [ ! -e "$key" ] || signed="[signed-by=$key] "
    apt-get indextargets --format "\$(ORIGIN)|deb-src $signed\$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
        'Created-By: Packages' | sed -n 's/^\(Debian\|Ubuntu\)|//p' | sort -u >"$root/sources.list"
    [ -s "$root/sources.list" ] || die "apt knows no package lists of Debian or Ubuntu; run apt-get update"
    cat >"$root/apt.conf" <<EOF
Dir::Etc::sourcelist "$root/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$root/lists";
Dir::Cache "$root/cache";
APT::Sandbox::User "$(id -un)";
EOF
}

fetch() { # package version: into $work/source
    local package=$1 version=$2
    make_apt "$work/apt"
    export APT_CONFIG=$work/apt/apt.conf
    say "fetching the source of $package $version"
    apt-get -o Debug::NoLocking=1 -qq update >&2
    mkdir "$work/fetched"
    # apt checks every file against the signed lists, so dpkg-source need not check again.
    if ! (cd "$work/fetched" && apt-get -qq source --download-only "$package=$version" >&2); then
        die "the distribution offers no source of $package $version (any more?): update the installed packages"
    fi
    dpkg-source --no-check -x "$work"/fetched/*.dsc "$work/source" >/dev/null
    unset APT_CONFIG
}

build() { # cache folder to fill
    local log=$work/build.log
    say "building the slim FFmpeg, some minutes; it is kept in $1"
    (cd "$work/source" && nice -n 10 ./configure "${options[@]}") >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "FFmpeg's configure failed; its last words are above"
    }
    nice -n 10 make -C "$work/source" -j "$(nproc)" install-libs DESTDIR="$work/installed" >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die "building FFmpeg failed; its last words are above"
    }
    mkdir "$work/done"
    cp -P "$work"/installed/lib/lib*.so.* "$work/done/"
    strip --strip-unneeded "$work"/done/lib*.so.*.*.*
    printf '%s\n' "$source" >"$work/done/source"
    printf '%s\n' "${options[@]}" >"$work/done/configure"
    mv "$work/done" "$1"
}

source=$(source_of_libavcodec)
key=$(printf '%s\n' "$source" "${options[@]}" | sha256sum | cut -c 1-12)
cache=${LX2V_BUNDLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lx2v/bundle}
mkdir -p "$cache"
folder=$cache/ffmpeg-$(printf '%s' "${source#* }" | tr -c 'A-Za-z0-9.+\n' '-')-$key
exec 9>"$cache/lock" # two bundles at once build it once
flock 9
if [ ! -d "$folder" ]; then
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # shellcheck disable=SC2086 # two words
    fetch $source
    build "$folder"
fi
printf '%s\n' "$folder"
