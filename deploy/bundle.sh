#!/usr/bin/env bash
# bundle.sh - one archive with lx2v and the libraries it needs, for other x86-64 Linux machines
# SPDX-License-Identifier: Apache-2.0
#
#   deploy/bundle.sh [options] [-DNAME=VALUE ...]
#     --slim         FFmpeg's libraries cut to what lx2v uses (built once, from the distribution's source)
#     --with-cuda    also the libraries of the CUDA toolkit; without it the machine's own are used
#     --cpu          without the CUDA module, also where there is a CUDA compiler
#     --tests        also the test programs and their data (then: tests/run in the bundle)
#     --build DIR    take what lies in this build tree, instead of building into build/bundle
#     --output DIR   where the archive and its folder appear; default: build
#
# -DNAME=VALUE goes to cmake. What is installed on the machine is what gets bundled: a bundle made
# on Debian 12 runs wherever glibc is 2.36 or newer. Exit codes: 0 ok, 1 failed, 2 a person must act.
# docs/bundle.md says more.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
slim=0
with_cuda=0
cpu_only=0
with_tests=0
tree=""
output=$root/build
definitions=()

say() { printf 'bundle: %s\n' "$*" >&2; }
die() { # code message
    printf 'bundle: %s\n' "$2" >&2
    exit "$1"
}

while [ $# -gt 0 ]; do
    case $1 in
    --slim) slim=1 ;;
    --with-cuda) with_cuda=1 ;;
    --cpu) cpu_only=1 ;;
    --tests) with_tests=1 ;;
    --build | --output)
        [ $# -ge 2 ] || die 2 "$1 needs a folder"
        if [ "$1" = --build ]; then
            tree=$2
        else
            output=$2
        fi
        shift
        ;;
    -D?*) definitions+=("$1") ;;
    -h | --help)
        sed -n '2,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) die 2 "unknown option $1; accepted are --slim, --with-cuda, --cpu, --tests, --build, --output, -D, --help" ;;
    esac
    shift
done

missing=$("$root/deploy/packages.sh" --bundle --list) ||
    die 2 "packages are missing ($(printf '%s' "$missing" | tr '\n' ' ')); install them: deploy/packages.sh --bundle"

# --- building ------------------------------------------------------------------------------------

programs=(lx2v lx2v-launch lx2v-encoder lx2v-dit lx2v-vae lx2v-mux lx2v-convert lx2v-tune lx2v-mkmodel)

# Test programs look for their data in the folder they are started from; no path of this machine
# is left in any program.
test_root=/proc/self/cwd

architectures="80;86;89;90a;120" # all cards that are served, not only this machine's

has_cuda_compiler() { command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; }

build() {
    local cuda=OFF log=$work/build.log target targets
    if [ "$cpu_only" -eq 0 ] && has_cuda_compiler; then
        cuda=ON
    fi
    say "building into $tree (LX2V_CUDA=$cuda)"
    if ! cmake -S "$root" -B "$tree" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLX2V_CUDA=$cuda -DLX2V_ARCHS="$architectures" \
        -DLX2V_TEST_ROOT="$test_root" -DCMAKE_C_FLAGS="-ffile-prefix-map=$root/=" "${definitions[@]}" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die 1 "configuring failed; its last words are above"
    fi
    targets=(all)
    if [ "$with_tests" -eq 0 ]; then
        targets=("${programs[@]}" demo_model)
        for target in lx2v-probe lx2v_cuda; do
            if cmake --build "$tree" --target help | grep -q "^$target:"; then
                targets+=("$target")
            fi
        done
    fi
    if ! cmake --build "$tree" --target "${targets[@]}" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die 1 "building failed; its last words are above"
    fi
}

cached() { sed -n "s/^$1:[A-Z]*=//p" "$tree/CMakeCache.txt"; }

is_elf() { [ -f "$1" ] && [ ! -L "$1" ] && [ "$(head -c 4 "$1" | tr -d '\0')" = $'\177ELF' ]; }

# --- what goes in --------------------------------------------------------------------------------

# Ours, stripped; a program's library path is set when it lies in its place.
take() { # file folder-in-the-bundle
    mkdir -p "$folder/$2"
    install -m 755 "$1" "$folder/$2/"
    strip --strip-unneeded "$folder/$2/${1##*/}"
}

take_programs() {
    local file
    for file in "${programs[@]}"; do
        [ -x "$tree/bin/$file" ] || die 1 "$tree/bin/$file is missing: the build is not complete"
    done
    for file in "$tree"/bin/lx2v*; do
        if is_elf "$file"; then
            take "$file" bin
        fi
    done
    install -m 755 "$root/deploy/bundle/lx2v-check" "$folder/bin/"
    module=""
    if [ "$cpu_only" -eq 0 ] && [ -e "$tree/lib/liblx2v_cuda.so" ]; then
        module=lib/liblx2v_cuda.so
        take "$tree/$module" lib
    fi
}

take_tests() {
    local file
    [ "$(cached LX2V_TEST_ROOT)" = "$test_root" ] ||
        die 2 "$tree: its tests look for their data on this machine only; configure it with -DLX2V_TEST_ROOT=$test_root"
    while IFS= read -r file; do
        case ${file##*/} in
        test_cli | test_config) continue ;; # about the caller's folder and the source tree: they do not travel
        esac
        if is_elf "$file"; then
            take "$file" "$(dirname "${file#"$tree"/}")"
        fi
    done < <(find "$tree/tests" -type f -perm -u+x -not -path '*/CMakeFiles/*' | sort)
    [ -e "$folder/tests/unit/test_convert" ] || die 1 "$tree holds no tests: build its target all, with cmocka installed"
    mkdir -p "$folder/tests/fuzz"
    cp -R "$root/tests/golden" "$folder/tests/"
    cp -R "$root/tests/fuzz/corpus" "$folder/tests/fuzz/"
    install -m 755 "$root/deploy/bundle/run-tests" "$folder/tests/run"
    install -m 755 "$root/tests/gpu.sh" "$folder/tests/"
    mkdir -p "$folder/tests/judge"
    install -m 755 "$root/tests/judge/demo.sh" "$folder/tests/judge/"
}

# The demo model in the form that config.yaml runs, and with the tests what the judge asks for.
take_model() {
    local model=$folder/models/demo
    [ -e "$tree/models/demo/made" ] || die 1 "$tree/models/demo is missing: build the target demo_model"
    mkdir -p "$model"
    cp -R "$tree/models/demo/distill_int8" "$tree/models/demo/google" "$tree/models/demo/made" "$model/"
    cp "$root/models/demo/MODEL_CARD.md" "$model/"
    if [ "$with_tests" -eq 1 ]; then
        cp -R "$root/models/demo/judge" "$model/"
    fi
}

take_share() {
    local share=$folder/share/lx2v file
    mkdir -p "$share"
    sed 's|^model: .*|model: models/demo|' "$root/config.yaml" >"$share/config.yaml"
    grep -qx 'model: models/demo' "$share/config.yaml" || die 1 "config.yaml has no line \`model: ...\`"
    for file in README.md SECURITY.md docs deploy/rigs; do
        cp -R "$root/$file" "$share/"
    done
}

# --- libraries -----------------------------------------------------------------------------------

# glibc's: the system's own, always, or its loader would not fit them.
is_glibc() {
    case $1 in
    linux-vdso.so.1 | ld-linux-x86-64.so.2) return 0 ;;
    libc.so.6 | libm.so.6 | libmvec.so.1 | libpthread.so.0 | libdl.so.2 | librt.so.1) return 0 ;;
    libresolv.so.2 | libutil.so.1 | libanl.so.1 | libnss_*.so.2 | libthread_db.so.1) return 0 ;;
    *) return 1 ;;
    esac
}

is_driver() {
    case $1 in
    libcuda.so.* | libnvidia-*.so.*) return 0 ;;
    *) return 1 ;;
    esac
}

is_toolkit() {
    case $1 in
    libcudart.so.* | libcublas.so.* | libcublasLt.so.* | libcudnn*.so.* | libnvrtc*.so.* | libnvJitLink.so.*) return 0 ;;
    *) return 1 ;;
    esac
}

# "NAME FILE" of every library that a program or library loads; FILE is empty if there is none.
libraries_of() {
    LD_LIBRARY_PATH=$slim_folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} ldd "$1" |
        sed -n 's/^\t\([^ ]*\) => not found.*/\1 /p; s/^\t\([^ ]*\) => \(\/[^ ]*\) (.*/\1 \2/p'
}

# The toolkit's libraries that our module loads, whether linked or named in it for dlopen.
toolkit_of_module() {
    { readelf -d "$folder/$module" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
      strings -n 8 "$folder/$module" | grep -E '^lib[A-Za-z]+\.so\.[0-9]+$' || true; } |
        sort -u | while read -r name; do
            if is_toolkit "$name"; then
                printf '%s\n' "$name"
            fi
        done
}

find_toolkit_library() { # name
    local place
    place=$(ldconfig -p | sed -n "s|^\t$1 (libc6,x86-64.*) => ||p" | head -n 1)
    for place in "$place" "/usr/local/cuda/lib64/$1" "/usr/lib/x86_64-linux-gnu/$1"; do
        if [ -n "$place" ] && [ -e "$place" ]; then
            printf '%s' "$place"
            return
        fi
    done
    die 1 "--with-cuda: $1 is not on this machine"
}

declare -A library=() # name -> file, as the loader finds it here

collect() { # file
    local name file
    while read -r name file; do
        if is_glibc "$name" || is_driver "$name" || [ "$name" = liblx2v_cuda.so ]; then
            continue
        elif is_toolkit "$name" && [ "$with_cuda" -eq 0 ]; then
            continue
        elif [ -z "$file" ]; then
            die 1 "${1#"$folder"/} needs $name, which is not on this machine"
        fi
        library[$name]=$file
    done < <(libraries_of "$1")
}

take_libraries() {
    local file name
    while IFS= read -r file; do
        if is_elf "$file"; then
            collect "$file"
        fi
    done < <(find "$folder" -type f)
    if [ -n "$module" ] && [ "$with_cuda" -eq 1 ]; then
        for name in $(toolkit_of_module); do
            file=$(find_toolkit_library "$name")
            library[$name]=$file
            collect "$file"
        done
    fi
    mkdir -p "$folder/lib"
    for name in "${!library[@]}"; do
        install -m 644 "$(readlink -f "${library[$name]}")" "$folder/lib/$name"
    done
}

# Programs get DT_RPATH, not DT_RUNPATH: it serves the libraries of their libraries too and goes
# before LD_LIBRARY_PATH. So the distribution's libraries stay as they are, byte for byte, but for
# the few that bring a path of their own. The CUDA module, where the toolkit is the machine's own,
# gets DT_RUNPATH: LD_LIBRARY_PATH may say which one.
set_paths() {
    local file depth
    while IFS= read -r file; do
        is_elf "$file" || continue
        case ${file#"$folder"/} in
        lib/liblx2v_cuda.so)
            # shellcheck disable=SC2016 # for the loader
            if [ "$with_cuda" -eq 1 ]; then
                patchelf --force-rpath --set-rpath '$ORIGIN' "$file"
            else
                patchelf --set-rpath '$ORIGIN:/usr/local/cuda/lib64' "$file"
            fi
            ;;
        lib/*)
            if [ -n "$(patchelf --print-rpath "$file")" ]; then
                # shellcheck disable=SC2016
                patchelf --force-rpath --set-rpath '$ORIGIN' "$file"
            fi
            ;;
        *)
            depth=$(dirname "${file#"$folder"/}" | sed 's|[^/][^/]*|..|g')
            patchelf --force-rpath --set-rpath "\$ORIGIN/$depth/lib" "$file"
            ;;
        esac
    done < <(find "$folder" -type f)
}

# Nothing may come from outside but glibc, the driver and, without --with-cuda, the toolkit.
check_closure() {
    local file name place
    while IFS= read -r file; do
        is_elf "$file" || continue
        case ${file#"$folder"/} in lib/*) continue ;; esac # by way of the programs
        while read -r name place; do
            if is_glibc "$name" || is_driver "$name" || is_toolkit "$name"; then
                continue
            fi
            case $(readlink -f "${place:-/none}") in
            "$folder"/*) ;;
            *) die 1 "${file#"$folder"/} would load $name from ${place:-nowhere}" ;;
            esac
        done < <(env -i LD_TRACE_LOADED_OBJECTS=1 "$file" |
            sed -n 's/^\t\([^ ]*\) => not found.*/\1 /p; s/^\t\([^ ]*\) => \(\/[^ ]*\) (.*/\1 \2/p')
    done < <(find "$folder" -type f -perm -u+x)
}

# --- papers --------------------------------------------------------------------------------------

# The package that a file is of; its name in dpkg's list may be with or without the /usr of merged systems.
package_of() {
    local file=$1
    { dpkg-query -S "$file" 2>/dev/null || dpkg-query -S "${file#/usr}" 2>/dev/null || true; } | sed -n '1s/: .*//p'
}

# Where the toolkit is no package: the terms lie in its folder, by one of these names.
describe_toolkit() { # its folder of libraries
    local top=${1%/targets/*} terms
    top=${top%/lib*}
    for terms in "$top"/EULA.txt "$top"/LICENSE "$top"/dist-info/nvidia_cublas-*/licenses/License.txt; do
        if [ -r "$terms" ]; then
            cp -L "$terms" "$folder/LICENSES/NVIDIA-CUDA.txt"
            return
        fi
    done
    die 1 "$top/EULA.txt is missing: the toolkit's libraries cannot be bundled without their licence"
}

describe_library() { # name file: a line for bundled.txt, and the licence
    local name=$1 file package
    file=$(readlink -f "$2")
    if [ -n "$slim_folder" ] && [ "${file%/*}" = "$(readlink -f "$slim_folder")" ]; then
        printf '%s  built for lx2v from source package %s\n' "$name" "$(cat "$slim_folder/source")"
        cp "$slim_folder/configure" "$folder/LICENSES/ffmpeg-configure.txt"
        file=$(readlink -f "$(pkg-config --variable=libdir libavcodec)/libavcodec.so")
        package=$(package_of "$file")
    elif is_toolkit "$name" && [ -z "$(package_of "$file")" ]; then
        printf '%s  NVIDIA CUDA toolkit, %s\n' "$name" "${file##*/}"
        describe_toolkit "${file%/*}"
        return
    else
        package=$(package_of "$file")
        [ -n "$package" ] || die 1 "$file belongs to no package: its licence is unknown, it cannot be bundled"
        dpkg-query -W -f "$name  \${Package} \${Version}, source package \${source:Package} \${source:Version}\n" "$package"
    fi
    package=${package%%:*}
    [ -r "/usr/share/doc/$package/copyright" ] || die 1 "/usr/share/doc/$package/copyright is missing: no licence for $name"
    cp -L "/usr/share/doc/$package/copyright" "$folder/LICENSES/$package.txt"
}

write_licences() {
    local name
    mkdir -p "$folder/LICENSES/common"
    cp "$root/LICENSE" "$folder/LICENSES/lx2v.txt"
    for name in "${!library[@]}"; do
        describe_library "$name" "${library[$name]}"
    done | sort >"$folder/LICENSES/bundled.txt"
    # The licences that the packages only name by their path.
    { grep -rhoE '/usr/share/common-licenses/[A-Za-z0-9.+-]*[A-Za-z0-9]' "$folder/LICENSES" || true; } | sort -u |
        while read -r name; do
            if [ -r "$name" ]; then
                cp -L "$name" "$folder/LICENSES/common/"
            fi
        done
}

newest_glibc() {
    find "$folder" -type f -exec sh -c 'readelf -V "$1" 2>/dev/null' sh {} \; |
        sed -n 's/.*Name: GLIBC_\([0-9][0-9.]*\) .*/\1/p' | sort -uV | tail -n 1
}

# The oldest driver that runs what this toolkit compiles: NVIDIA's table of minor version compatibility.
needed_driver() {
    local nvcc major
    # cuBLAS and the runtime are numbered as the toolkit is.
    major=$(toolkit_of_module | sed -n 's/^lib\(cublas\|cublasLt\|cudart\)\.so\.//p' | head -n 1)
    if [ -z "$major" ]; then
        nvcc=$(cached LX2V_NVCC)
        major=$("${nvcc:-nvcc}" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    fi
    case $major in
    12) printf '525.60.13' ;;
    13) printf '580.65.06' ;;
    *) die 1 "CUDA ${major:-unknown}: the driver that it needs is not known here; known are 12 and 13" ;;
    esac
}

write_requires() {
    {
        printf 'glibc %s\n' "$glibc"
        if [ -n "$module" ]; then
            printf 'driver %s\n' "$driver"
            toolkit_of_module | sed 's/^/toolkit /'
        fi
        (cd "$folder" && find bin lib -type f -printf 'file %s %p\n' | sort -k 3)
    } >"$folder/share/lx2v/requires"
}

write_readme() {
    local variant="with the distribution's libraries" card="" libs="" commit sources=""
    [ "$slim" -eq 0 ] || variant="slim"
    if [ -n "$module" ]; then
        card=", and for NVIDIA cards driver $driver or newer"
        if [ "$with_cuda" -eq 0 ]; then
            libs=" and of CUDA, which"$'\n'"          are the machine's own ($(toolkit_of_module | tr '\n' ' ' | sed 's/ $//'))"
            [ -n "$(toolkit_of_module)" ] || libs=""
        fi
    fi
    [ "$slim" -eq 0 ] || sources=" FFmpeg's libraries are built from theirs"$'\n'"with the options of LICENSES/ffmpeg-configure.txt."
    commit=$(git -C "$root" describe --always --dirty 2>/dev/null) || commit="an unknown commit"
    # shellcheck disable=SC1091 # a file of the distribution
    VERSION=$version VARIANT=$variant COMMIT=$commit SYSTEM=$(. /etc/os-release && printf '%s' "${PRETTY_NAME:-unknown}") \
        GLIBC=$glibc CARD=$card LIBS=$libs SOURCES=$sources awk '
        {
            while (match($0, /@[A-Z]+@/))
                $0 = substr($0, 1, RSTART - 1) ENVIRON[substr($0, RSTART + 1, RLENGTH - 2)] substr($0, RSTART + RLENGTH)
            print
        }' "$root/deploy/bundle/README.in" >"$folder/README"
}

# --- the archive ---------------------------------------------------------------------------------

megabytes() { awk -v n="$1" 'BEGIN { printf "%.1f MB", n / 1e6 }'; }

# The same files give the same archive: sorted, no owner, the time of the commit.
pack() {
    local when threads=1 # one gives the smallest archive
    [ "$with_cuda" -eq 0 ] || threads=0
    when=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$when" -cf - "$name" |
        nice -n 5 xz -T "$threads" --x86 --lzma2=preset=6e -c >"$archive.part"
    mv "$archive.part" "$archive"
}

report() {
    say "largest of $(find "$folder" -type f | wc -l) files:"
    (cd "$folder" && find . -type f -printf '%s %P\n' | sort -rn | sed -n '1,8p') | while read -r bytes file; do
        say "  $(megabytes "$bytes")  $file"
    done
    say "$(megabytes "$(du -sb "$folder" | cut -f 1)") unpacked, ${#library[@]} libraries, needs glibc $glibc"
    say "$(megabytes "$(stat -c %s "$archive")") $archive"
}

mkdir -p "$output"
output=$(cd -- "$output" && pwd)
work=$(mktemp -d "$output/bundle.XXXXXX")
trap 'rm -rf "$work"' EXIT
if [ -z "$tree" ]; then
    tree=$root/build/bundle
    build
fi
[ -e "$tree/CMakeCache.txt" ] || die 2 "$tree is no build tree of lx2v"
tree=$(cd -- "$tree" && pwd)
version=$(cached CMAKE_PROJECT_VERSION)
name=lx2v-$version-x86_64
folder=$work/$name
mkdir "$folder"

slim_folder=""
if [ "$slim" -eq 1 ]; then
    slim_folder=$("$root/deploy/bundle/ffmpeg.sh")
fi
variant=""
[ "$slim" -eq 0 ] || variant+=-slim
[ "$with_cuda" -eq 0 ] || variant+=-cuda
[ "$with_tests" -eq 0 ] || variant+=-tests
archive=$output/$name$variant.tar.xz

say "collecting"
take_programs
[ "$with_cuda" -eq 0 ] || [ -n "$module" ] || die 2 "--with-cuda: $tree has no CUDA module"
if [ "$with_tests" -eq 1 ]; then
    take_tests
fi
take_model
take_share
take_libraries
set_paths
check_closure
write_licences
glibc=$(newest_glibc)
driver=""
[ -z "$module" ] || driver=$(needed_driver)
write_readme
write_requires
say "packing"
pack
report
printf '%s\n' "$archive"
