# SPDX-License-Identifier: BSD-3-Clause
"""Checks of what the kernel, the container and the limits of the process allow."""

from __future__ import annotations

from collections.abc import Iterator

from .._native.errors import name_of
from .._text import plural, size_text
from ..discover.topology import format_ids
from .finding import Finding
from .host import Host

__all__ = ["CHECKS"]

_MAX_MAP_COUNT = 65530  # the kernel's default
_SHM_LEAST, _SHM_PER_RANK = 128 << 20, 32 << 20  # bytes: what MPI itself takes, and room for windows
_STACK_LEAST = 8 << 20  # bytes: the usual default
_HEADROOM = 256 << 20  # bytes per rank below which a cgroup is about to call the OOM killer


def placing(host: Host) -> Iterator[Finding]:
    """The kernel's answers to mbind and move_pages."""
    for rank in host.ranks:
        for call, code, effect in (
            (
                "mbind",
                rank.bind_errno,
                "memory can't be placed: it is where the pinned rank first touches it",
            ),
            ("move_pages", rank.query_errno, "placement can't be asked for: reports say that it is unknown"),
        ):
            if code == 0:
                continue
            filtered = rank.seccomp == 2
            yield host.finding(
                "seccomp" if filtered else f"{call.replace('_', '-')}-refused",
                "warning",
                f"{call} is refused",
                seen=[
                    f"rank {rank.rank}: {call}: {name_of(code)}; Seccomp: {rank.seccomp} in /proc/self/status"
                ],
                effect=effect + "; strict=True raises",
                mend=(
                    ("docker run --cap-add SYS_NICE ...", "podman run --security-opt seccomp=unconfined ...")
                    if filtered
                    else ("a kernel built with CONFIG_NUMA and CONFIG_MIGRATION",)
                ),
                ranks=(rank,),
            )


def cpuset(host: Host) -> Iterator[Finding]:
    """A cgroup that gives part of the host though no resource manager gave it out."""
    topology = host.facts.topology
    online = frozenset(host.core_of)
    if host.managed or topology.allowed_cpus >= online:
        return
    yield host.finding(
        "cpuset",
        "note",
        "the cgroup's cpuset allows part of the host's CPUs",
        seen=[f"allowed: CPUs {format_ids(topology.allowed_cpus)} of {format_ids(online)}"],
        effect="ranks and threads have to fit in there",
        mend=("docker run --cpuset-cpus=LIST ...", "echo LIST > CGROUP/cpuset.cpus"),
    )


def cpu_quota(host: Host) -> Iterator[Finding]:
    """A cgroup that grants less time than the CPUs of its ranks could use."""
    quota = min((r.cpu_quota for r in host.ranks if r.cpu_quota is not None), default=None)
    cpus = len(frozenset[int]().union(*(rank.cpus for rank in host.ranks)))
    if quota is None or quota >= cpus:
        return
    yield host.finding(
        "cpu-quota",
        "warning",
        "the cgroup grants less CPU time than the ranks' CPUs could use",
        seen=[f"quota: {quota:g} CPUs' worth of time; CPUs of the ranks: {cpus}"],
        effect="all threads are stopped together for the rest of each period (usually 100 ms)",
        mend=(f"docker run --cpus={cpus} ...", "echo max > CGROUP/cpu.max"),
    )


def memory_limit(host: Host) -> Iterator[Finding]:
    """A cgroup whose memory is nearly used up."""
    group = min(
        (rank.memory for rank in host.ranks if rank.memory is not None),
        key=lambda g: g.limit - g.used,
        default=None,
    )
    if group is None:
        return
    left = max(group.limit - group.used, 0)
    need = max(_HEADROOM * len(host.ranks), group.limit // 16)
    installed = sum(node.memory_bytes for node in host.facts.topology.nodes)
    seen = [
        f"{group.path}: limit {size_text(group.limit)}, used {size_text(group.used)}, "
        f"left {size_text(left)} for {plural(len(host.ranks), 'rank')}"
    ]
    mend = ("#SBATCH --mem=0  (all of the node's), or --mem=SIZE", "docker run --memory=SIZE ...")
    if left < need:
        yield host.finding(
            "memory-limit",
            "warning",
            "the cgroup's memory is nearly used up",
            seen=seen,
            effect="the OOM killer ends a rank when it is; strict arrays raise OutOfMemoryError before that",
            mend=mend,
        )
    elif not host.managed and group.limit < installed:
        yield host.finding(
            "memory-limit",
            "note",
            "a cgroup limits memory to less than the host has",
            seen=[*seen, f"the host has {size_text(installed)}"],
            effect="the OOM killer ends a rank that goes beyond",
            mend=mend,
        )


def numa_balancing(host: Host) -> Iterator[Finding]:
    """Pages that the kernel moves on its own."""
    if len(host.facts.topology.nodes) > 1 and host.facts.numa_balancing:
        yield host.finding(
            "numa-balancing",
            "note",
            "the kernel's automatic NUMA balancing is on",
            seen=[f"/proc/sys/kernel/numa_balancing: {host.facts.numa_balancing}"],
            effect="it takes page faults to learn which thread uses a page, and moves pages without a policy of their own "
            "(hpcalloc's arrays have one)",
            mend=("sudo sysctl kernel.numa_balancing=0",),
        )


def zone_reclaim(host: Host) -> Iterator[Finding]:
    """Nodes that drop their file pages before they use a neighbour's memory."""
    if host.facts.zone_reclaim:
        yield host.finding(
            "zone-reclaim",
            "warning",
            "a full node reclaims its own pages before memory comes from another node",
            seen=[f"/proc/sys/vm/zone_reclaim_mode: {host.facts.zone_reclaim}"],
            effect="allocations stall while file pages are dropped or written back",
            mend=("sudo sysctl vm.zone_reclaim_mode=0",),
        )


def transparent_huge_pages(host: Host) -> Iterator[Finding]:
    """Huge pages on advice."""
    if host.facts.thp in ("always", "madvise"):
        return
    yield host.finding(
        "thp-never",
        "warning",
        "the kernel gives no transparent huge pages",
        seen=[f"/sys/kernel/mm/transparent_hugepage/enabled: {host.facts.thp or 'missing'}"],
        effect="large arrays have 4 KiB pages: slow first touch, many TLB misses",
        mend=("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",),
    )


def huge_pages_off(host: Host) -> Iterator[Finding]:
    """Transparent huge pages that a parent has forbidden."""
    for rank in host.ranks:
        if rank.thp_off:
            yield host.finding(
                "thp-off",
                "warning",
                "transparent huge pages are switched off for the process, whatever the kernel's setting is",
                seen=[f"rank {rank.rank}: THP_enabled: 0 in /proc/self/status"],
                effect="large arrays have 4 KiB pages: slow first touch, many TLB misses",
                mend=(
                    f"start it from another shell; one of {', '.join(rank.ancestors[:4]) or 'its parents'} has called "
                    "prctl(PR_SET_THP_DISABLE), and children inherit that",
                    "systemd: MemoryTHP=inherit",
                ),
                ranks=(rank,),
            )


def slow_nodes(host: Host) -> Iterator[Finding]:
    """Nodes without CPUs, and pages that the kernel moves there."""
    bare = [node for node in host.facts.topology.nodes if not node.cpus and node.memory_bytes]
    if not bare:
        return
    ids = format_ids(node.id for node in bare)
    if host.facts.demotion:
        yield host.finding(
            "demotion",
            "warning",
            "under pressure the kernel moves pages to nodes without CPUs, those of strict arrays too",
            seen=["/sys/kernel/mm/numa/demotion_enabled: on", f"nodes without CPUs: {ids}"],
            effect="memory that was placed is elsewhere later, and slower; strict=True does not hold",
            mend=("echo false | sudo tee /sys/kernel/mm/numa/demotion_enabled",),
        )
    yield host.finding(
        "memory-only-nodes",
        "note",
        "there are nodes with memory and no CPUs (CXL, HBM, a GPU's)",
        seen=[f"node {node.id}: {size_text(node.memory_bytes)}" for node in bare[:8]],
        effect="their memory has another speed; it is used by name, and where the other nodes are full",
        mend=("numactl --membind=NODES PROGRAM, with the nodes that have CPUs, keeps memory off them",),
    )


def explicit_huge_pages(host: Host) -> Iterator[Finding]:
    """Pools of explicit huge pages per node, against what is asked for and against each other."""
    wanted = {"2M": 2048, "1G": 1 << 20}.get(host.ranks[0].environment.get("NUMALLOC_HUGEPAGES", ""))
    homes = {
        node for rank in host.ranks for node in host.nodes(rank.cpus)
    } & host.facts.topology.allowed_nodes
    for size in (2048, 1 << 20):
        pools = [pool for pool in host.facts.hugepages if pool.page_kib == size and pool.node in homes]
        empty = [pool for pool in pools if pool.free == 0]
        unit = "2 MiB" if size == 2048 else "1 GiB"
        seen = [f"node {pool.node}: {pool.free} of {pool.total} pages of {unit} free" for pool in pools[:8]]
        mend = tuple(
            f"echo COUNT | sudo tee /sys/devices/system/node/node{pool.node}/hugepages/"
            f"hugepages-{size}kB/nr_hugepages"
            for pool in empty[:4]
        )
        if size == wanted and (empty or not pools):
            yield host.finding(
                "hugetlb-empty",
                "warning",
                f"NUMALLOC_HUGEPAGES asks for {unit} pages and nodes of the ranks have none free",
                seen=seen or [f"no pool of {unit} pages"],
                effect="blocks there fall back to transparent huge pages or base pages",
                mend=(*mend, "unset NUMALLOC_HUGEPAGES"),
            )
        elif empty and any(pool.total for pool in pools) and any(pool.total == 0 for pool in pools):
            yield host.finding(
                "hugetlb-uneven",
                "warning",
                f"some nodes have explicit {unit} pages and others none",
                seen=seen,
                effect="ranks get huge pages or not by the node they are on, or take remote ones",
                mend=mend,
            )
        elif size != wanted and sum(pool.free for pool in pools) * size * 1024 * 10 > _installed(host):
            yield host.finding(
                "hugetlb-unused",
                "note",
                f"much memory is set aside for {unit} pages and free",
                seen=seen,
                effect="ordinary allocations can't have it",
                mend=(f"export NUMALLOC_HUGEPAGES={'2M' if size == 2048 else '1G'}",),
            )


def _installed(host: Host) -> int:
    return sum(node.memory_bytes for node in host.facts.topology.nodes) or 1 << 62


def limits(host: Host) -> Iterator[Finding]:
    """The process' own limits (ulimit)."""
    for rank in host.ranks:
        lock, stack = rank.limits.get("Max locked memory"), rank.limits.get("Max stack size")
        if lock is not None and host.facts.fabric:
            yield host.finding(
                "ulimit-memlock",
                "warning",
                "locked memory is limited on a host with RDMA",
                seen=[f"ulimit -l: {lock // 1024} KiB; devices: {', '.join(host.facts.fabric[:4])}"],
                effect="MPI can't register buffers: it fails, or falls back to copies and TCP",
                mend=("ulimit -l unlimited", "LimitMEMLOCK=infinity in slurmd.service, by an administrator"),
                ranks=(rank,),
            )
        if stack is not None and stack < _STACK_LEAST:
            yield host.finding(
                "ulimit-stack",
                "warning",
                "the stack is limited to less than is usual",
                seen=[f"ulimit -s: {stack // 1024} KiB"],
                effect="Fortran and OpenMP codes with automatic arrays end with SIGSEGV",
                mend=("ulimit -s unlimited", "export OMP_STACKSIZE=64M for OpenMP threads"),
                ranks=(rank,),
            )
        for name, flag in (("Max address space", "-v"), ("Max data size", "-d")):
            value = rank.limits.get(name)
            if value is not None:
                yield host.finding(
                    f"ulimit{'-as' if flag == '-v' else '-data'}",
                    "warning",
                    f"{'address space' if flag == '-v' else 'data'} is limited",
                    seen=[f"ulimit {flag}: {value // 1024} KiB"],
                    effect="MPI and thread stacks may fail to start",
                    mend=(f"ulimit {flag} unlimited",),
                    ranks=(rank,),
                )


def overcommit(host: Host) -> Iterator[Finding]:
    """Strict accounting of memory that is only reserved."""
    if host.facts.overcommit == 2:
        yield host.finding(
            "overcommit",
            "warning",
            "the kernel counts memory when it is allocated, not when it is used",
            seen=["/proc/sys/vm/overcommit_memory: 2"],
            effect="large arrays, fork and thread stacks fail with ENOMEM long before memory is full",
            mend=("sudo sysctl vm.overcommit_memory=0", "sudo sysctl vm.overcommit_ratio=95"),
        )


def mappings(host: Host) -> Iterator[Finding]:
    """Mappings that a process may have."""
    count = host.facts.max_map_count
    if count is not None and count < _MAX_MAP_COUNT:
        yield host.finding(
            "max-map-count",
            "warning",
            "a process may have fewer mappings than is usual",
            seen=[f"/proc/sys/vm/max_map_count: {count}"],
            effect="arrays with a policy of their own, many threads or libraries run into ENOMEM",
            mend=(f"sudo sysctl vm.max_map_count={_MAX_MAP_COUNT}",),
        )


def shared_memory(host: Host) -> Iterator[Finding]:
    """What MPI has for messages inside a host and for shared windows."""
    free, size = host.facts.shm_free, host.facts.shm_bytes
    need = max(_SHM_LEAST, _SHM_PER_RANK * len(host.ranks))
    if size is not None and free is not None and free >= need:
        return
    yield host.finding(
        "dev-shm",
        "warning",
        "/dev/shm is small" if size is not None else "/dev/shm is missing",
        seen=[f"{size_text(free or 0)} free of {size_text(size or 0)}; {plural(len(host.ranks), 'rank')}"],
        effect="MPI fails to start or ends with SIGBUS; shared windows and shared arrays do not fit",
        mend=(
            "docker run --shm-size=8g ...",
            "sudo mount -o remount,size=50% /dev/shm",
            "rm /dev/shm/FILES-LEFT-OVER",
        ),
    )


CHECKS = (
    placing,
    cpuset,
    cpu_quota,
    memory_limit,
    numa_balancing,
    zone_reclaim,
    transparent_huge_pages,
    huge_pages_off,
    slow_nodes,
    explicit_huge_pages,
    limits,
    overcommit,
    mappings,
    shared_memory,
)
