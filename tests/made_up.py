# SPDX-License-Identifier: BSD-3-Clause
"""A made-up machine: /proc and /sys as files below a directory, for what reads them with another root."""

import types

GIB = 1 << 30


class Machine:
    """Healthy at first; the tests break it file by file."""

    def __init__(self, root, nodes=2, cores=4, threads=1, memory=64 * GIB):
        self.root = root
        self.cpus = {
            node: range(node * cores * threads, (node + 1) * cores * threads) for node in range(nodes)
        }
        last = nodes * cores * threads - 1
        self.all = f"0-{last}"
        self.write("sys/devices/system/cpu/online", self.all)
        self.write("sys/devices/system/node/online", f"0-{nodes - 1}")
        self.write("sys/devices/system/node/has_memory", f"0-{nodes - 1}")
        for node, cpus in self.cpus.items():
            here = f"sys/devices/system/node/node{node}"
            self.write(f"{here}/cpulist", f"{cpus[0]}-{cpus[-1]}")
            self.write(f"{here}/meminfo", f"Node {node} MemTotal:       {memory // 1024} kB\n")
            self.write(f"{here}/distance", " ".join("10" if other == node else "20" for other in self.cpus))
            for kib in (2048, 1048576):
                self.hugepages(node, kib, 0, 0)
            for cpu in cpus:
                first = cpu - (cpu - cpus[0]) % threads
                self.write(
                    f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list",
                    f"{first}-{first + threads - 1}",
                )
                self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", str(node))
        for name, value in (
            ("kernel/numa_balancing", 0), ("kernel/hostname", "made-up"), ("vm/zone_reclaim_mode", 0),
            ("vm/overcommit_memory", 0), ("vm/max_map_count", 65530),
        ):  # fmt: skip
            self.write(f"proc/sys/{name}", str(value))
        self.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.write("proc/self/cgroup", "0::/job\n")
        self.write("sys/fs/cgroup/job/cpuset.cpus.effective", self.all)
        self.write("proc/self/maps", "")
        self.write("proc/self/numa_maps", "7ffc0 default stack anon=3 N0=3 kernelpagesize_kB=4\n")
        self.write("proc/self/stat", "100 (python) S 90 0\n")
        self.write("proc/90/stat", "90 (bash) S 1 0\n")
        self.write("proc/1/stat", "1 (init) S 0 0\n")
        self.status()
        self.limits()
        self.shm = (16 * GIB, 16 * GIB)
        (root / "dev/shm").mkdir(parents=True)

    def write(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def hugepages(self, node, kib, total, free):
        here = f"sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB"
        self.write(f"{here}/nr_hugepages", str(total))
        self.write(f"{here}/free_hugepages", str(free))

    def more_memory(self, node, memory, distances):
        """Add a node without CPUs; `distances` are from it, and of the others to it."""
        here = f"sys/devices/system/node/node{node}"
        for other in self.cpus:
            row = self.root / f"sys/devices/system/node/node{other}/distance"
            row.write_text(f"{row.read_text()} {distances[other]}")
        self.cpus[node] = ()
        self.write(f"{here}/cpulist", "\n")
        self.write(f"{here}/meminfo", f"Node {node} MemTotal:       {memory // 1024} kB\n")
        self.write(f"{here}/distance", " ".join(map(str, distances)))
        for name in ("online", "has_memory"):
            self.write(f"sys/devices/system/node/{name}", f"0-{node}")
        self.status()

    def access(self, node, initiators, bandwidth=("0", "0"), latency=("0", "0"), which="access1"):
        """What the kernel tells of a node's memory; pairs are of reading and writing, in MB/s and ns."""
        here = f"sys/devices/system/node/node{node}/{which}/initiators"
        for name, values in (("bandwidth", bandwidth), ("latency", latency)):
            for way, value in zip(("read", "write"), values, strict=True):
                self.write(f"{here}/{way}_{name}", f"{value}\n")
        for initiator in initiators:
            (self.root / here / f"node{initiator}").symlink_to(f"../../../node{initiator}")

    def tiers(self, nodes):
        for tier, listed in nodes.items():
            self.write(f"sys/devices/virtual/memory_tiering/memory_tier{tier}/nodelist", f"{listed}\n")

    def status(self, cpus=None, mems=None, seccomp=0):
        mems = f"0-{len(self.cpus) - 1}" if mems is None else mems
        self.write(
            "proc/self/status",
            f"Name:\tpython\nSeccomp:\t{seccomp}\nCpus_allowed_list:\t{cpus or self.all}\nMems_allowed_list:\t{mems}\n",
        )

    def limits(self, lock="unlimited", stack="8388608", space="unlimited", data="unlimited"):
        rows = {"locked memory": lock, "stack size": stack, "address space": space, "data size": data}
        self.write(
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            + "".join(
                f"{'Max ' + name:<26}{value:<21}{'unlimited':<21}bytes     \n" for name, value in rows.items()
            ),
        )

    def statvfs(self, path):
        assert path == self.root / "dev/shm"
        size, free = self.shm
        return types.SimpleNamespace(f_frsize=4096, f_blocks=size // 4096, f_bavail=free // 4096)


def pci_device(machine, address, kind, vendor, node, cpus, driver="", files=()):
    """Add a device on PCI to a machine; `files` are others in its directory."""
    here = f"sys/bus/pci/devices/{address}"
    machine.write(f"{here}/class", f"0x{kind}00\n")
    machine.write(f"{here}/vendor", f"0x{vendor}\n")
    machine.write(f"{here}/numa_node", f"{node}\n")
    machine.write(f"{here}/local_cpulist", f"{cpus}\n")
    for name, text in dict(files).items():
        machine.write(f"{here}/{name}", text)
    if driver:
        (machine.root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
        (machine.root / here / "driver").symlink_to(machine.root / f"sys/bus/pci/drivers/{driver}")
