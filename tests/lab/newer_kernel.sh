#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Fetches the kernel of Debian's next release into DIR/lib/modules/VERSION (its image is `vmlinuz` there), and packages into
# DIR, from the mirror that apt uses, without touching this machine's lists of packages:
# newer_kernel.sh DIR [ARCHITECTURE [PACKAGE...]]
set -euo pipefail
dir=$(mkdir -p "$1" && realpath "$1")
arch=${2-amd64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/lists/partial "$work"/archives/partial "$work"/root
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -1)
echo "deb [arch=$arch signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work"/sources.list
apt=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists"
    -o Dir::State::status=/dev/null -o "APT::Architecture=$arch" -o "APT::Architectures=$arch"
    -o "Dir::Cache::Archives=$work/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none)
apt-get -qq "${apt[@]}" update
name=$(apt-cache "${apt[@]}" depends "linux-image-$arch" | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -1)
cd "$work"
apt-get -qq "${apt[@]}" download "$name" "${@:3}"
dpkg-deb -x "$name"_*.deb root
rm "$name"_*.deb
for package in *.deb; do [ ! -e "$package" ] || dpkg-deb -x "$package" "$dir"; done
version=${name#linux-image-}
mkdir -p "$dir"/lib/modules
rm -rf "$dir/lib/modules/$version"
mv root/usr/lib/modules/"$version" "$dir"/lib/modules/
depmod -b "$dir" "$version"
mv root/boot/vmlinuz-"$version" "$dir/lib/modules/$version/vmlinuz"
