# SPDX-License-Identifier: BSD-3-Clause
"""The source folders are a staircase: each one includes and calls only itself and those before it.

    stairs.py SOURCES [OBJECTS]

reads every include under SOURCES and every symbol of the object files under OBJECTS (a build directory, by ``nm``), and
fails on one that runs up the stairs, and on a file over 600 lines. Before that it checks a made-up tree that has one
fault of each kind, which it must find.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

STAIRS = [
    "os",
    "",
    "space",
    "heap",
    "large",
    "reclaim",
    "api",
    "modes",
    "preload",
]  # "": types.h, sizeclass.h
HOOKS = {"na_modes"}  # heap/hooks.h: the table through which modes are called; defined where they are
LINES_MAX = 600


def step(path: Path, sources: Path) -> int:
    folder = path.relative_to(sources).parts[:-1]
    return STAIRS.index(folder[0] if folder else "")


def check_sources(sources: Path) -> list[str]:
    """Return what is wrong with includes and lengths."""
    found = []
    for path in sorted([*sources.rglob("*.c"), *sources.rglob("*.h")]):
        text = path.read_text()
        name = path.relative_to(sources)
        lines = text.count("\n")
        if lines > LINES_MAX:
            found.append(f"{name} has {lines} lines, more than {LINES_MAX}")
        for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.M):
            target = sources / included
            if target.exists() and step(target, sources) > step(path, sources):
                found.append(f"{name} includes {included}")
    return found


def source_of(path: Path, sources: Path) -> Path:
    """Return the source of an object file, which is in a folder of the same name below one called src."""
    parts = path.with_suffix("").parts
    return sources.joinpath(*parts[len(parts) - parts[::-1].index("src") :])


def check_objects(objects: Path, sources: Path) -> list[str]:
    """Return the calls that run up."""
    files = [
        path
        for path in sorted(objects.rglob("*.o"))
        if "src" in path.parts and source_of(path, sources).exists()
    ]
    if not files:
        return [f"no object files of {sources} under {objects}"]
    text = subprocess.run(
        ["nm", "-A", "-P", *map(str, files)], check=True, capture_output=True, text=True
    ).stdout
    defined_at: dict[str, Path] = {}
    wanted: list[tuple[Path, str]] = []
    for line in text.splitlines():
        file, name, kind = line.split()[:3]
        source = source_of(Path(file.rstrip(":")), sources)
        if kind == "U":
            wanted.append((source, name))
        elif kind.isupper() and (step(source, sources) < STAIRS.index("preload") or name.startswith("na_")):
            defined_at[name] = source  # others of preload/ are names of the C library
    return [
        f"{source.relative_to(sources)} uses {name} of {defined_at[name].relative_to(sources)}"
        for source, name in wanted
        if name not in HOOKS
        and name in defined_at
        and step(defined_at[name], sources) > step(source, sources)
    ]


def check_itself() -> None:
    """Each kind of fault is found in a made-up tree, and nothing but these."""
    with tempfile.TemporaryDirectory() as directory:
        sources, objects = Path(directory, "in", "src"), Path(directory, "objects", "src")
        files = {
            "os/below.c": '#include "api/above.h"\nint na_below(void) { return na_above() + na_modes; }\n',
            "os/long.c": "/*\n" + "\n" * LINES_MAX + "*/\nint na_long;\n",
            "api/above.h": "int na_above(void);\nextern int na_modes;\n",
            "api/above.c": '#include "os/os.h"\nint na_modes;\nint na_above(void) { return na_low(); }\n',
            "os/os.h": "int na_low(void);\n",
            "os/os.c": '#include "os/os.h"\nint na_low(void) { return 1; }\n',
        }
        for name, text in files.items():
            path, built = sources / name, objects / f"{name}.o"
            path.parent.mkdir(parents=True, exist_ok=True)
            built.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path in sources.rglob("*.c"):
            built = objects / f"{path.relative_to(sources)}.o"
            subprocess.run(["cc", "-c", f"-I{sources}", str(path), "-o", str(built)], check=True)
        found = check_sources(sources) + check_objects(objects, sources)
    expected = [
        "os/below.c includes api/above.h",
        "os/long.c has 603 lines, more than 600",
        "os/below.c uses na_above of api/above.c",
    ]
    assert found == expected, found


def main() -> int:
    check_itself()
    sources = Path(sys.argv[1]).resolve()
    found = check_sources(sources)
    if len(sys.argv) > 2:
        found += check_objects(Path(sys.argv[2]).resolve(), sources)
    for line in found:
        print(line)
    print(f"{len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
