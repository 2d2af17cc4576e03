"""The NUMA lab: boots kernels with 2 and 4 NUMA nodes under QEMU and runs the placement checks inside.

Run by ``make test-numa``. Emulated nodes show truthfully where pages are; they show nothing about speed.
The guest sees this machine's file system through 9p (read-only, with a writable /tmp), so it runs what was built
here. Software emulation is slow: a kernel is booted once and does all its checks.
"""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEBIAN = "apt-get install qemu-system-x86 linux-image-amd64 busybox-static numactl"
RESULT = re.compile(r"^(?P<name>[^:].*): (?P<verdict>ok|FAILED|skipped)\s*$")


def kernel_image() -> pathlib.Path:
    """Newest installed kernel with 9p as a module (cloud images lack it)."""
    images = [p for p in pathlib.Path("/boot").glob("vmlinuz-*") if "cloud" not in p.name]
    for image in sorted(images, key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)], reverse=True):
        version = image.name.removeprefix("vmlinuz-")
        if list(pathlib.Path("/lib/modules", version).glob("kernel/net/9p/9pnet.ko*")):
            return image
    sys.exit(f"numa lab: no kernel image with 9p in /boot; remedy: {DEBIAN}")


def launcher() -> list[str]:
    """virtme-ng, installed beside this interpreter if need be."""
    if shutil.which("qemu-system-x86_64") is None:
        sys.exit(f"numa lab: qemu-system-x86_64 is missing; remedy: {DEBIAN}")
    bin_dir = pathlib.Path(sys.executable).parent
    if not (bin_dir / "vng").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "virtme-ng>=1.40"], check=True)
    return [str(bin_dir / "vng")]


def kernel(nodes: int, guest: Sequence[object], options: Sequence[str] = ()) -> list[str]:
    """Command that boots a kernel with `nodes` nodes of 2 CPUs and 1 GiB and runs the words of `guest` in it."""
    command = [*launcher(), "-r", str(kernel_image()), "--disable-kvm", "--force-9p"]
    command += ["--cpus", str(2 * nodes), "--memory", f"{nodes}G"]
    for node in range(nodes):
        command += ["--numa", f"1G,cpus={2 * node}-{2 * node + 1}"]
    for a in range(nodes):
        for b in range(a + 1, nodes):  # pairs are near, as the halves of a package
            command += ["--numa-distance", f"{a},{b}={12 if a // 2 == b // 2 else 21}"]
    return [*command, *options, "--exec", shlex.join(map(str, guest))]


def environment() -> dict[str, str]:
    """Environment in which that command finds virtme-ng's other programs."""
    return dict(os.environ, PATH=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")


def boot(nodes: int, timeout: int, *, again: bool = True) -> tuple[int, int, int]:
    """Boot a kernel, run the checks; gives passed, failed, skipped. QEMU that ends before any check is started once more."""
    command = kernel(nodes, ["bash", ROOT / "tests/lab/guest.sh", nodes, ROOT, sys.executable])
    start = time.monotonic()
    print(f"--- {nodes} nodes: {kernel_image().name}", flush=True)
    passed = failed = skipped = 0
    done = False
    with subprocess.Popen(
        ["timeout", "--kill-after=10", str(timeout), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            match = RESULT.match(line)
            stamp = f" ({time.monotonic() - start:.0f} s)" if match else ""
            print(line.rstrip() + stamp, flush=True)
            done = done or line.strip() == "lab guest done"
            if match:
                passed += match["verdict"] == "ok"
                failed += match["verdict"] == "FAILED"
                skipped += match["verdict"] == "skipped"
    if not done and passed + failed + skipped == 0 and process.returncode != 124 and again:
        print(f"the {nodes}-node guest did not come up (exit {process.returncode}): once more", flush=True)
        return boot(nodes, timeout, again=False)
    if not done:
        print(f"the {nodes}-node guest ended early (exit {process.returncode}): FAILED")
        failed += 1
    if done and passed == 0:
        print(f"the {nodes}-node guest reported no check: FAILED")
        failed += 1
    print(f"--- {nodes} nodes: {time.monotonic() - start:.0f} s", flush=True)
    return passed, failed, skipped


def main() -> int:
    """Boot every kernel asked for and print the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--timeout", type=int, default=1500, help="seconds per kernel")
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        sys.exit(f"numa lab: it boots x86-64 kernels, this machine is {platform.machine()}")
    results = [boot(nodes, options.timeout) for nodes in options.nodes]
    passed, failed, skipped = (sum(column) for column in zip(*results, strict=True))
    if skipped:  # in the lab everything can run
        failed += skipped
    print(f"numa lab: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
