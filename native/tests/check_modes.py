# SPDX-License-Identifier: BSD-3-Clause
"""Programs that know nothing of numalloc under the preload with NUMALLOC_LEAKS, PROFILE, GUARD and SECURE.

Usage: check_modes.py LIBRARY. Each program must give its plain output, and the files must parse: the leak report
as JSON; the heap profile by a reader written from the grammar of gperftools' heap profiles ("heap profile:" header,
one line per stack, MAPPED_LIBRARIES), and by google-pprof where that is installed.
"""

import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

LIBRARY = os.path.abspath(sys.argv[1])
PROGRAM = """
import ctypes, json, os, subprocess, sys, threading
keep = [bytearray(3000 + i % 100) for i in range(20000)]
def work(): return json.dumps([str(i) * 3 for i in range(3000)])
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sum(map(len, keep)), len(work()))
print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout, flush=True)
for path in sys.argv[1:]:
    dump = getattr(ctypes.CDLL(None), "numalloc_profile_dump", None)
    if dump is not None: print(path, "error", dump(path.encode()), file=sys.stderr)
"""
LEAKY = """
#include <stdlib.h>
#include <string.h>
__attribute__((noinline)) static void forgets(void) { memset(malloc(4321), 1, 4321); } /* line 4 */
int main(void) { for (int i = 0; i < 3; i++) forgets(); free(malloc(10)); return 0; }
"""
failures = 0


def check(name, passed, detail=""):
    """One line for a check."""
    global failures
    failures += not passed
    print(f"{name}: {'ok' if passed else f'FAILED: {str(detail)[:1000]}'}", flush=True)


def run(*command, **settings):
    """Output and messages of a command under the preload with NUMALLOC_<settings>; none: without the preload."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMALLOC_")}
    if settings:
        environment |= {"LD_PRELOAD": LIBRARY} | {f"NUMALLOC_{k}": str(v) for k, v in settings.items()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


def parse(text):
    """(rate, header, samples, mappings) of a heap profile; ValueError where it leaves the grammar."""
    numbers = r" *(\d+): +(\d+) \[ *(\d+): +(\d+)\] @"
    header = re.match(rf"heap profile:{numbers} heap_v2/(\d+)\n", text)
    if header is None:
        raise ValueError(f"header: {text[:80]!r}")
    body, found, maps = text[header.end() :].partition("\nMAPPED_LIBRARIES:\n")
    if not found:
        raise ValueError("no MAPPED_LIBRARIES")
    samples = []
    for line in body.splitlines():
        sample = re.fullmatch(rf"{numbers}((?: 0x[0-9a-f]+)+)", line)
        if sample is None:
            raise ValueError(f"sample: {line!r}")
        samples.append(([int(v) for v in sample.groups()[:4]], [int(a, 16) for a in sample[5].split()]))
    mappings = []
    for line in maps.splitlines():
        mapping = re.fullmatch(
            r"([0-9a-f]+)-([0-9a-f]+) [r-][w-][x-][ps] [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ \d+ *(.*)", line
        )
        if mapping is None:
            raise ValueError(f"mapping: {line!r}")
        mappings.append((int(mapping[1], 16), int(mapping[2], 16), mapping[3]))
    total = [int(v) for v in header.groups()[:4]]
    if total != [sum(s[0][i] for s in samples) for i in range(4)]:
        raise ValueError("the header is not the sum of the samples")
    for (live, live_bytes, made, made_bytes), stack in samples:
        if live > made or live_bytes > made_bytes or (live == 0) != (live_bytes == 0):
            raise ValueError("more live than allocated")
        if not any(start < stack[-1] < end and "numalloc" in name for start, end, name in mappings):
            raise ValueError("the outermost frame is not a node's")
    return int(header[5]), total, samples, mappings


def unsampled(samples, rate, column):
    """Bytes as pprof scales them: per line, 1 / (1 - exp(-mean size / rate))."""
    rows = [(v[column], v[column + 1]) for v, _ in samples if v[column]]
    return sum(b / -math.expm1(-b / n / rate) for n, b in rows)


def profile(directory):
    """The heap profile: at exit, on a call, collapsed, and in a viewer."""
    at_exit, dumped, collapsed = (str(directory / n) for n in ("exit.%p.heap", "dump.heap", "dump.collapsed"))
    plain = run(sys.executable, "-c", PROGRAM)
    ours = run(sys.executable, "-c", PROGRAM, dumped, collapsed, PROFILE=at_exit, PROFILE_RATE="64K")
    check("profile: same output", ours[:2] == plain[:2], ours)
    check("profile: dumped when called", ours[2] == f"{dumped} error 0\n{collapsed} error 0\n", ours[2])
    files = sorted(directory.glob("exit.*.heap"))
    check("profile: one file per process", len(files) == 2, files)
    kept = sum(3000 + i % 100 + 1 for i in range(20000))
    try:
        for file in files:
            parse(file.read_text())
        rate, _, samples, _ = parse(pathlib.Path(dumped).read_text())
        live = unsampled(samples, rate, 0)
        spread = 8 * math.sqrt(kept * rate)
        check("profile: follows the grammar", rate == 65536, rate)
        check("profile: near what is live", abs(live - kept) < spread + 6e6, (live, kept))
        lines = pathlib.Path(collapsed).read_text().splitlines()
        shape = all(re.fullmatch(r"node \d+(;[^; ]+)+ \d+", line) for line in lines)
        check("collapsed: one stack a line", bool(lines) and shape, lines[:3])
        total = sum(int(line.rpartition(" ")[2]) for line in lines)
        check("collapsed: says the same", abs(total - live) < 0.05 * live + 4 * rate, (total, live))
    except ValueError as error:
        check("profile: follows the grammar", False, error)
        return
    if viewer := shutil.which("google-pprof"):
        done = subprocess.run(
            [viewer, "--text", sys.executable, dumped],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        megabytes = re.search(r"^Total: ([\d.]+) MB", done.stdout, re.MULTILINE)
        good = megabytes is not None and abs(float(megabytes[1]) * 2**20 - live) < 0.02 * live
        check(
            "profile: google-pprof reads it", good and "numa_node_" in done.stdout, done.stdout + done.stderr
        )
    else:
        print("profile: google-pprof is not installed, skipped")


def leaks(directory):
    """The leak report of Python, and of a program that leaks."""
    plain = run(sys.executable, "-c", PROGRAM)
    ours = run(sys.executable, "-c", PROGRAM, LEAKS=directory / "py.%p.json")
    check("leaks: same output of python", ours[:2] == plain[:2], ours)
    files = sorted(directory.glob("py.*.json"))
    reports = [json.loads(f.read_text()) for f in files]
    check("leaks: one report per process", len(reports) == 2, files)
    for r in reports:
        sums = (
            sum(g["bytes"] for g in r["groups"]) == r["bytes"]
            and sum(g["blocks"] for g in r["groups"]) == r["blocks"]
        )
        falling = all(a["bytes"] >= b["bytes"] for a, b in zip(r["groups"], r["groups"][1:], strict=False))
        check("leaks: sums and order", sums and falling and r["blocks"] > 0 and r["unrecorded"] == 0, r)
    # The one that loads extension modules by dlopen.
    check("leaks: start-up is set apart", max(r["startup_blocks"] for r in reports) > 0)
    compiler = shutil.which("cc")
    if compiler is None:
        print("leaks: no C compiler, skipped")
        return
    source, program = directory / "leaky.c", directory / "leaky"
    source.write_text(LEAKY)
    subprocess.run([compiler, "-g", "-O0", "-o", program, source], check=True)
    run(program, LEAKS=directory / "leaky.json")
    report = json.loads((directory / "leaky.json").read_text())
    groups = [g for g in report["groups"] if g["bytes"] == 3 * 4321 and g["blocks"] == 3]
    check("leaks: found", len(groups) == 1 and report["bytes"] == 3 * 4321, report)
    if groups and (tool := shutil.which("addr2line")):
        frame = groups[0]["frames"][0]
        place = subprocess.check_output([tool, "-e", frame["module"], frame["module_address"]], text=True)
        check("leaks: addr2line finds the line", "leaky.c:4" in place, place)


def guard():
    """Guard mode finds nothing wrong with Python."""
    plain = run(sys.executable, "-c", PROGRAM)
    for level in (1, 2):
        ours = run(sys.executable, "-c", PROGRAM, GUARD=level)
        check(f"guard {level}: same output of python", ours == plain, ours)


def secure():
    """Secure mode finds nothing wrong with Python, alone and with other modes."""
    plain = run(sys.executable, "-c", PROGRAM)
    for modes in ({}, {"GUARD": 1}, {"LEAKS": os.devnull}):
        ours = run(sys.executable, "-c", PROGRAM, SECURE=1, **modes)
        check(f"secure {modes}: same output of python", ours == plain, ours)


with tempfile.TemporaryDirectory() as name:
    profile(pathlib.Path(name))
    leaks(pathlib.Path(name))
guard()
secure()
sys.exit(failures != 0)
