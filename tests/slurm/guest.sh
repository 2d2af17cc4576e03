#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Runs inside a host of kernels.py: guest.sh HOST HOSTS NODES ROOT PYTHON KEY. Gives the host its name, its network and
# the cgroups that slurmd looks for, then leaves it to guest.py.
set -euo pipefail
host=$1 hosts=$2 root=$4 python=$5

hostname "host$host"
printf '127.0.0.1 localhost\n192.0.2.1 host1\n192.0.2.2 host2\n' >/tmp/hosts
mount --bind /tmp/hosts /etc/hosts
ip link set lo up
if [ "$hosts" = 1 ]; then
    # Slurm looks past addresses of loopback.
    modprobe dummy
    ip link add cable type dummy
else
    modprobe virtio_net
    ip link set "$(basename "$(dirname "$(grep -l 52:54:00:00:00:0 /sys/class/net/*/address)")")" name cable
fi
ip addr add "192.0.2.$host/24" dev cable
ip link set cable up

mountpoint -q /sys/fs/cgroup && umount -l /sys/fs/cgroup
mount -t tmpfs cgroup /sys/fs/cgroup
for controller in freezer cpuset memory cpu; do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
done

export HOME=/tmp
exec "$python" "$root/tests/slurm/guest.py" "$@"
