#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Real programs under LD_PRELOAD give the same output as without. Usage: test_preload.sh LIBRARY
set -euo pipefail
library=$1
passed=0 failed=0

same() { # name, command...
    local name=$1 plain ours
    shift
    plain=$("$@" 2>&1) || true
    if ours=$(LD_PRELOAD=$library "$@" 2>&1) && [ "$plain" = "$ours" ]; then
        echo "$name: ok"
        passed=$((passed + 1))
    else
        echo "$name: FAILED: $(head -c 500 <<<"$ours")"
        failed=$((failed + 1))
    fi
}

# The library must really be the one that serves malloc.
used=$(LD_PRELOAD=$library NUMALLOC_STATS=1 python3 -c pass 2>&1)
if grep -q '"allocations": [1-9]' <<<"$used"; then echo "serves malloc: ok"; passed=$((passed + 1))
else echo "serves malloc: FAILED: $used"; failed=$((failed + 1)); fi

same "sort" bash -c 'seq 1 200000 | sort -R --random-source=/dev/zero | sort -n | md5sum'
same "sed and grep" bash -c 'seq 1 50000 | sed "s/1/one/g" | grep -c one'
same "pipes and subshells" bash -c 'for i in $(seq 50); do (echo $i | tr 1 2); done | md5sum'
same "python" python3 -c '
import collections, json, threading, subprocess, sys
results = []
def work(k):
    d = collections.defaultdict(list)
    for i in range(20000): d[i % 97].append("x" * (i % 300))
    results.append((k, sum(len("".join(v)) for v in d.values())))
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(results), len(json.dumps(list(range(100000)))))
print(subprocess.run([sys.executable, "-c", "print(sum(range(1000)))"], capture_output=True, text=True).stdout)
'
same "python multiprocessing (fork)" python3 -c '
import multiprocessing as mp
def square(x): return x * x
if __name__ == "__main__":
    with mp.get_context("fork").Pool(4) as pool: print(sum(pool.map(square, range(10000))))
'
source=$(mktemp --suffix=.c)
trap 'rm -f "$source"' EXIT
printf 'int main(void){return 0;}\n' >"$source"
same "gcc" gcc -O2 -S -o - "$source"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
