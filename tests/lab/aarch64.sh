#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs the C placement checks, cross-built for 64-bit Arm, in a kernel of 4 uneven NUMA nodes under QEMU: aarch64.sh BUILD
# BUILD is cmake's directory. The kernel is fetched once into build/lab/aarch64; programs come to it in its initial file system.
set -euo pipefail
build=$(realpath "$1")
root=$(realpath "$(dirname "$0")"/../..)
lab=$root/build/lab/aarch64 libraries=/usr/aarch64-linux-gnu/lib
command -v qemu-system-aarch64 cpio >/dev/null || { echo "aarch64.sh: on Debian: apt-get install qemu-system-arm cpio" >&2; exit 1; }
[ -e "$lab"/usr/bin/busybox ] || bash "$root"/tests/lab/newer_kernel.sh "$lab" arm64 busybox-static

guest=$(mktemp -d)
trap 'rm -rf "$guest"' EXIT
mkdir -p "$guest"/files/{bin,lib,proc,sys,tmp,dev}
cp "$lab"/usr/bin/busybox "$build"/bin/lab_{placement,kinds,hotplug} "$guest"/files/bin
cp -L "$libraries"/{ld-linux-aarch64,libc,libm,libdl,libpthread,libgcc_s}.so.[0-9] "$build"/liblab_unplaced.so "$guest"/files/lib
cat >"$guest"/files/init <<'END'
#!/bin/busybox sh
for at in proc:proc sysfs:sys devtmpfs:dev tmpfs:tmp; do busybox mount -t ${at%:*} none /${at#*:}; done
busybox --install -s /bin
uname -rm
lab_placement
lab_kinds bandwidth=none latency=none capacity=3:size near=capacity:0:3
lab_hotplug
for case in on_node_preferred on_node_strict interleaved_pages_alternate blocked_parts_are_in_order; do
    LD_PRELOAD=/lib/liblab_unplaced.so lab_placement $case >/dev/null
    [ $? = 1 ] && verdict=ok || verdict=FAILED
    echo "placement switched off is noticed by $case: $verdict"
done
echo "lab guest done"
poweroff -f
END
chmod +x "$guest"/files/init
(cd "$guest"/files && find . | cpio -o -H newc --quiet) >"$guest"/initial

machine=(-M virt -cpu cortex-a72 -smp 8 -m 3584M -nographic -no-reboot -nic none)
sizes=(1G 512M 512M 1536M)
for node in 0 1 2 3; do
    machine+=(-object "memory-backend-ram,id=memory$node,size=${sizes[node]}"
        -numa "node,cpus=$((2 * node))-$((2 * node + 1)),memdev=memory$node")
done
for pair in 0,1=12 2,3=12 0,2=21 0,3=21 1,2=21 1,3=21; do
    machine+=(-numa "dist,src=${pair%,*},dst=${pair:2:1},val=${pair#*=}")
done
kernel=("$lab"/lib/modules/*/vmlinuz)
timeout 1500 qemu-system-aarch64 "${machine[@]}" -kernel "${kernel[-1]}" -initrd "$guest"/initial \
    -append "console=ttyAMA0 quiet panic=-1" </dev/null | tr -d '\r' | tee "$guest"/console || true
passed=$(grep -c ': ok$' "$guest"/console) failed=$(grep -cE ': (FAILED|skipped)$' "$guest"/console) || true
grep -qx "lab guest done" "$guest"/console || { echo "the kernel comes to its end: FAILED"; failed=$((failed + 1)); }
echo "numa lab, aarch64: $passed passed, $failed failed"
[ "$failed" = 0 ]
