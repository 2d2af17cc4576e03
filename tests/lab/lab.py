"""The NUMA lab: boots machines of several NUMA nodes under QEMU and runs the placement checks inside.

``make test-numa`` boots the quick ones, ``make test-numa-all`` the whole table of machines.py. Emulated nodes show
truthfully where pages are; they show nothing about speed. The guest sees this machine's file system through 9p (read-only,
with a writable /tmp), so it runs what was built here. Software emulation is slow: a kernel is booted once and does all its
checks. A boot that hangs is ended alone, with what was on its console.
"""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import collections
import functools
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import machines
from machines import Machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEBIAN = "apt-get install qemu-system-x86 linux-image-amd64 busybox-static numactl"
RESULT = re.compile(r"^(?P<name>[^:].*): (?P<verdict>ok|FAILED|skipped)\s*$")
# The host's files once more, for cached.sh; before devices of a machine, on whose buses QEMU would put it.
SHARE = (
    "-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
    " -device virtio-9p-pci,fsdev=host,mount_tag=host"
)
Verdicts = collections.Counter[str]


def _version(path: pathlib.Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def kernel_image() -> pathlib.Path:
    """Newest installed kernel with 9p as a module (cloud images lack it)."""
    images = [p for p in pathlib.Path("/boot").glob("vmlinuz-*") if "cloud" not in p.name]
    for image in sorted(images, key=_version, reverse=True):
        version = image.name.removeprefix("vmlinuz-")
        if list(pathlib.Path("/lib/modules", version).glob("kernel/net/9p/9pnet.ko*")):
            return image
    sys.exit(f"numa lab: no kernel image with 9p in /boot; remedy: {DEBIAN}")


@functools.cache
def newer_image() -> pathlib.Path | None:
    """Kernel of Debian's next release, fetched once into build/lab; None if it is not to be had."""
    modules = ROOT / "build/lab/lib/modules"
    if not list(modules.glob("*/vmlinuz")):
        fetch = subprocess.run(
            ["bash", ROOT / "tests/lab/newer_kernel.sh", modules.parents[1]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if fetch.returncode != 0:
            print(fetch.stdout.strip())
    return max(modules.glob("*/vmlinuz"), key=lambda p: _version(p.parent), default=None)


def launcher() -> list[str]:
    """virtme-ng, installed beside this interpreter if need be."""
    if shutil.which("qemu-system-x86_64") is None:
        sys.exit(f"numa lab: qemu-system-x86_64 is missing; remedy: {DEBIAN}")
    bin_dir = pathlib.Path(sys.executable).parent
    if not (bin_dir / "vng").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "virtme-ng>=1.40"], check=True)
    return [str(bin_dir / "vng")]


def command_of(
    machine: Machine, image: pathlib.Path, guest: Sequence[object], options: Sequence[str] = ()
) -> list[str]:
    """Command that boots a machine and runs the words of `guest` in it."""
    command = [*launcher(), "-r", str(image), "--disable-kvm", "--force-9p"]
    command += ["--cpus", str(machine.cpus), "--memory", machine.memory]
    for node in machine.nodes:
        command += ["--numa", node]
    count = len(machine.nodes)
    for a in range(count):
        for b in range(a + 1, count):
            command += ["--numa-distance", f"{a},{b}={machine.distance(a, b)}"]
    command += [f"--qemu-opts={option}" for option in (SHARE, *machine.qemu)]
    if machine.append:
        command += [f"--append={machine.append}"]
    cached = ["bash", ROOT / "tests/lab/cached.sh", "/usr", ROOT, sys.base_prefix, "--"]
    return [*command, *options, "--exec", shlex.join(map(str, [*cached, *guest]))]


def kernel(nodes: int, guest: Sequence[object], options: Sequence[str] = ()) -> list[str]:
    """Command that boots `nodes` nodes of 2 CPUs and 1 GiB and runs the words of `guest` in it."""
    return command_of(machines.even(nodes), kernel_image(), guest, options)


def environment() -> dict[str, str]:
    """Environment in which that command finds virtme-ng's other programs."""
    return dict(os.environ, PATH=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")


def boot(machine: Machine, options: argparse.Namespace, *, again: bool = True) -> Verdicts:
    """Boot a machine, run its checks, count their verdicts. QEMU that ends before any check is started once more."""
    image = newer_image() if machine.kernel == "newer" else kernel_image()
    print(
        f"--- {machine.name}: {image.parent.name if machine.kernel == 'newer' and image else image and image.name}"
    )
    if image is None:
        print(f"{machine.name}: missing capability: a newer kernel: skipped", flush=True)
        return Verdicts(skipped=1)
    checks = [check for check in machine.checks if not options.checks or check in options.checks]
    online = machine.online or len(machine.nodes)
    guest = ["bash", ROOT / "tests/lab/guest.sh", ROOT, sys.executable, online, shlex.join(machine.kinds)]
    command = command_of(machine, image, [*guest, machine.memkind, *checks])
    start = time.monotonic()
    verdicts = Verdicts()
    console: collections.deque[str] = collections.deque(maxlen=40)
    done = hung = False
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(),
        start_new_session=True,
    ) as process:

        def end() -> None:
            nonlocal hung
            hung = True
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(options.timeout, end)
        timer.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                match = RESULT.match(line)
                stamp = f" ({time.monotonic() - start:.0f} s)" if match else ""
                print(line.rstrip() + stamp, flush=True)
                console.append(line)
                done = done or line.strip() == "lab guest done"
                if match:
                    verdicts[match["verdict"]] += 1
        except KeyboardInterrupt:
            end()
            raise
        finally:
            timer.cancel()
    if not done and not verdicts and not hung and again:
        print(f"{machine.name}: it did not come up (exit {process.returncode}): once more", flush=True)
        return boot(machine, options, again=False)
    if not done:
        how = (
            f"hung and was ended after {options.timeout} s"
            if hung
            else f"ended early (exit {process.returncode})"
        )
        print(f"{machine.name}: {how}; its console's end:\n  " + "  ".join(console))
        print(f"{machine.name} comes to its end: FAILED")
        verdicts["FAILED"] += 1
    elif not verdicts["ok"]:
        print(f"{machine.name} reports a check: FAILED")
        verdicts["FAILED"] += 1
    print(f"--- {machine.name}: {time.monotonic() - start:.0f} s", flush=True)
    return verdicts


def main() -> int:
    """Boot every machine asked for and print the sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every machine")
    parser.add_argument(
        "--machine", action="append", choices=list(machines.MACHINES), help="by name; may be repeated"
    )
    parser.add_argument("--checks", nargs="+", metavar="CHECK", help="these alone")
    parser.add_argument("--timeout", type=int, default=1500, help="seconds per machine")
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        sys.exit(f"numa lab: it boots x86-64 kernels, this machine is {platform.machine()}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no machine outlives a limit of time
    names = options.machine or (list(machines.MACHINES) if options.all else machines.QUICK)
    table = {name: boot(machines.MACHINES[name], options) for name in names}
    total = sum(table.values(), Verdicts())
    for name, verdicts in table.items():
        print(f"{name}: {verdicts['ok']} passed, {verdicts['FAILED']} failed, {verdicts['skipped']} skipped")
    failed = total["FAILED"] + total["skipped"]  # in the lab everything can run
    print(f"numa lab: {total['ok']} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
