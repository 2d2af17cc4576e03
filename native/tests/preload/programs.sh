#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Real programs under LD_PRELOAD give what they give without, and really are served by the library.
# Usage: programs.sh [--full] LIBRARY [PROGRAM...]; --full takes minutes. PYTHON names the interpreter whose own
# tests run (python3), VENV the virtual environment with NumPy and MPI (.venv); --full also takes the one with MPICH.
# A program that is not installed is skipped; with CI=true that is a failure.
set -euo pipefail
full=0
if [ "${1:-}" = --full ]; then full=1; shift; fi
library=$(realpath "$1")
shift
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../../..")
python=${PYTHON:-python3}
venv=${VENV:-$root/.venv}
limit=$((full ? 1200 : 200)) # seconds for one command
passed=0 failed=0 skipped=0
export LC_ALL=C GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null PYTHONHASHSEED=0
unset LD_PRELOAD "${!NUMALLOC_@}"

work=$(mktemp -d)
clean() {
    local job
    for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM

# Before the programs of a case: $under is empty, or what puts the library in place.
under=()
preloaded=(env LD_PRELOAD="$library")

result() { # name, ok|FAILED|skipped, why
    printf '%s: %s%s (%s s)\n' "$1" "$2" "${3:+: $3}" "$((SECONDS - started))"
    case $2 in
    ok) passed=$((passed + 1)) ;;
    FAILED) failed=$((failed + 1)) ;;
    *) skipped=$((skipped + 1)) ;;
    esac
}

have() { # name, program...
    local name=$1 program
    shift
    for program in "$@"; do
        command -v "$program" >/dev/null && continue
        result "$name" skipped "$program is not installed"
        return 1
    done
}

# Does the library serve malloc in this command? Its own statistics tell.
serves() {
    local said
    said=$(NUMALLOC_STATS=1 timeout 120 "${preloaded[@]}" "$@" 2>&1 >/dev/null </dev/null) || return 1
    grep -q '"allocations": [1-9]' <<<"$said"
}

once() { # plain|ours, function, arguments...: of the case $name
    set -e
    local which=$1
    shift
    cd "$work/$name/$which"
    if [ "$which" = ours ]; then under=("${preloaded[@]}"); fi
    "$@" >"../$which.out" 2>"../$which.err"
}

# same NAME FUNCTION ARGUMENTS...: runs the function in an empty directory, without the library and with it, at the
# same time. Both must succeed and write the same.
same() {
    local name=$1 plain=0 ours=0
    shift
    mkdir -p "$work/$name/plain" "$work/$name/ours"
    # Both in the background: in a list with || the shell would not stop at errors.
    once plain "$@" </dev/null &
    local first=$!
    once ours "$@" </dev/null &
    wait "$first" || plain=$?
    wait $! || ours=$?
    if [ "$plain" -ne 0 ]; then
        result "$name" FAILED "without the library: status $plain: $(tail -c 500 "$work/$name/plain.err")"
    elif [ "$ours" -ne 0 ]; then
        result "$name" FAILED "status $ours: $(tail -c 500 "$work/$name/ours.err")"
    elif ! cmp -s "$work/$name/plain.out" "$work/$name/ours.out"; then
        result "$name" FAILED "$(diff "$work/$name/plain.out" "$work/$name/ours.out" | head -10)"
    elif [ ! -s "$work/$name/ours.out" ]; then
        result "$name" FAILED "it wrote nothing"
    else
        result "$name" ok
    fi
    rm -rf "${work:?}/$name"
}

# ---- shell -------------------------------------------------------------------------------------------------

shell_commands() {
    "${under[@]}" bash -c 'seq 1 200000 | sort -R --random-source=/dev/zero | sort -n | md5sum
        seq 1 50000 | sed "s/1/one/g" | grep -c one
        for i in $(seq 50); do (echo $i | tr 1 2); done | md5sum
        seq 1 100000 | awk "{ a[\$1 % 997] += \$1 } END { for (i = 0; i < 997; i++) print a[i] }" | md5sum
        tar cf - -C /usr/include . 2>/dev/null | wc -c'
}
program_shell() {
    serves bash -c : || { result shell FAILED "malloc is not served by the library"; return; }
    same shell shell_commands
}

# ---- gcc ---------------------------------------------------------------------------------------------------

compile() {
    local source sources=("$root"/native/src/{space/span,heap/heap,api/api,os/topology}.c)
    if [ "$full" = 1 ]; then sources=("$root"/native/src/*/*.c "$root"/native/tests/test_*.c); fi
    for source in "${sources[@]}"; do
        "${under[@]}" gcc -O2 -g -fdebug-prefix-map="$PWD"=. -std=gnu11 -fPIC -I"$root/native/include" -I"$root/native/src" -I"$root/native/tests" -DNA_OPTIONS_DOC='""' -c "$source" -o object.o
        sha256sum <object.o # bit by bit
    done
    "${under[@]}" gcc -O2 -flto -frandom-seed=1 -std=gnu11 -c -I"$root/native/include" -I"$root/native/src" "$root/native/src/os/cgroup.c" -o lto.o
    sha256sum <lto.o
}
compile_cxx() {
    local source sources=(replaced)
    if [ "$full" = 1 ]; then sources=(operators module replaced); fi
    for source in "${sources[@]}"; do
        "${under[@]}" g++ -O2 -g -fdebug-prefix-map="$PWD"=. -std=c++17 -I"$root/native/include" -c "$here/$source.cpp" -o object.o
        sha256sum <object.o
    done
}
program_gcc() {
    have gcc gcc || return 0
    echo 'int main(void) { return 0; }' >"$work/empty.c"
    serves gcc -S -o /dev/null "$work/empty.c" || { result gcc FAILED "malloc is not served by the library"; return; }
    same gcc compile
    have g++ g++ || return 0
    same g++ compile_cxx
}

# ---- sqlite3 -------------------------------------------------------------------------------------------------

database() {
    local rows=100000
    if [ "$full" = 1 ]; then rows=1000000; fi
    "${under[@]}" sqlite3 -batch data.db <<SQL
PRAGMA journal_mode = MEMORY;
PRAGMA cache_size = -64000;
CREATE TABLE part(id INTEGER PRIMARY KEY, name TEXT, weight REAL);
CREATE TABLE stock(part INTEGER, place TEXT, amount INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $rows)
INSERT INTO part SELECT i, printf('part %08d %.*c', (i * 7919) % 1000003, i % 60, 'x'), (i * 31 % 1009) / 8.0 FROM n;
INSERT INTO stock SELECT id, 'place ' || (id % 97), (id * 13) % 101 FROM part UNION ALL SELECT id, 'other', id % 7 FROM part WHERE id % 3 = 0;
CREATE INDEX by_name ON part(name);
CREATE INDEX by_part ON stock(part);
SELECT place, count(*), sum(amount * weight) FROM part JOIN stock ON part = id GROUP BY place ORDER BY place;
SELECT name, amount FROM part JOIN stock ON part = id WHERE name BETWEEN 'part 00000000' AND 'part 00009999' ORDER BY name, amount;
SELECT group_concat(name, ',') FROM (SELECT name FROM part ORDER BY weight, name LIMIT 2000);
DELETE FROM part WHERE id % 5 = 0;
VACUUM;
PRAGMA integrity_check;
SQL
    sha256sum <data.db
}
program_sqlite3() {
    have sqlite3 sqlite3 || return 0
    serves sqlite3 :memory: 'select 1' || { result sqlite3 FAILED "malloc is not served by the library"; return; }
    same sqlite3 database
}

# ---- git -----------------------------------------------------------------------------------------------------

repository() {
    local i commits=15 git=("${under[@]}" git -c init.defaultBranch=main -c pack.threads=2 -c gc.auto=0)
    if [ "$full" = 1 ]; then commits=100; fi
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
    "${git[@]}" init -q one
    cp -r "$root/native" "$root/docs" "$root/hpcalloc" one/
    for ((i = 0; i < commits; i++)); do
        sed -i "s/return/return  /; \$a // $i" one/native/src/*/*.c
        export GIT_AUTHOR_DATE="@$((1700000000 + i)) +0000" GIT_COMMITTER_DATE="@$((1700000000 + i)) +0000"
        "${git[@]}" -C one add -A
        "${git[@]}" -C one commit -q -m "change $i"
    done
    "${git[@]}" -C one log -p --stat -M | sha256sum
    "${git[@]}" clone -q "file://$PWD/one" two
    "${git[@]}" -C two gc -q --aggressive --prune=now
    "${git[@]}" -C two fsck --full --strict
    "${git[@]}" -C two rev-list --objects --all | sort | sha256sum
    "${git[@]}" -C two blame native/src/api/api.c | sha256sum
    "${git[@]}" -C two grep -c na_region
    if "${git[@]}" -C "$root" rev-parse -q --verify HEAD 2>/dev/null; then # this project's own
        "${git[@]}" clone -q --no-local "$root" three
        "${git[@]}" -C three log -p --stat | sha256sum
        "${git[@]}" -C three gc -q
        "${git[@]}" -C three fsck --full
    fi
}
program_git() {
    have git git || return 0
    serves git --version || { result git FAILED "malloc is not served by the library"; return; }
    same git repository
}

# ---- redis ---------------------------------------------------------------------------------------------------

# Starts a server on a socket in the working directory; its pid in $server.
redis_start() {
    "${under[@]}" redis-server --port 0 --unixsocket "$PWD/s" --dir "$PWD" --save '' --dbfilename d.rdb \
        --activedefrag no >server.log 2>&1 &
    server=$!
    local i
    for ((i = 0; i < 100; i++)); do
        [ "$(redis-cli -s s ping 2>/dev/null)" = PONG ] && return
        sleep 0.1
    done
    tail -3 server.log >&2
    return 1
}
redis_stop() { # the server's end, by itself: 0
    redis-cli -s s shutdown "$1" >/dev/null 2>&1 || true
    wait "$server"
    server=
}
redis_ask() {
    redis-cli -s s dbsize
    redis-cli -s s --raw sort keys_of_all alpha | sha256sum
    local i
    for ((i = 0; i < 2000; i += 37)); do printf 'GET s:%d\nHMGET h:%d a b\nLRANGE l:%d 0 -1\nZRANGE z 0 %d\n' $i $i $i $i; done |
        redis-cli -s s | sha256sum
}
redis_data() {
    server= # its pid while it runs; it ends with us, also when we are told to end
    trap '[ -z "$server" ] || kill "$server"' EXIT
    trap 'exit 1' TERM
    local i n=20000
    if [ "$full" = 1 ]; then n=300000; fi
    redis_start
    if [ ${#under[@]} -gt 0 ]; then grep -q libnumalloc_preload "/proc/$server/maps"; fi
    for ((i = 0; i < 2000; i++)); do
        printf 'SET s:%d %0*d\nHSET h:%d a %d b %0*d\nRPUSH l:%d 1 2 3 %d\nZADD z %d m%d\nSADD keys_of_all k%d\n' \
            $i $((i % 900 + 1)) $i $i $i $((i % 99 + 1)) $i $i $i $((i * 7 % 1013)) $i $i
    done | redis-cli -s s --pipe >/dev/null
    "${under[@]}" redis-benchmark -q -s s -n "$n" -c 20 -P 8 -r 10000 -d 300 \
        -t set,get,incr,lpush,rpop,sadd,hset,zadd,mset >benchmark.log
    redis-cli -s s eval "for i, k in ipairs(redis.call('keys', '*')) do if k:find('rand') or k:find('key:') or k:find('my') or k:find('counter') then redis.call('del', k) end end return 1" 0
    redis_ask
    redis-cli -s s memory purge
    redis_stop save # a child of fork() writes none of this, the next one does:
    redis_start
    redis_ask
    redis-cli -s s bgsave >/dev/null
    for ((i = 0; i < 100; i++)); do
        redis-cli -s s info persistence | grep -q rdb_bgsave_in_progress:0 && break
        sleep 0.1
    done
    redis-cli -s s info persistence | tr -d '\r' | grep -E 'rdb_last_bgsave_status|rdb_saves'
    redis_stop nosave
    [ -s benchmark.log ]
}
program_redis() {
    have redis redis-server redis-cli redis-benchmark || return 0
    same redis redis_data
}

# ---- CPython's own tests ---------------------------------------------------------------------------------------

# What each test came to, sorted: a test that fails without the library as well is not ours.
cat >"$work/outcomes.py" <<'PYTHON'
import io, os, sys, unittest, warnings

names = sys.argv[1:]
if any(name.startswith("fork.") for name in names):  # as test_multiprocessing_fork does, which some installations lack
    import test._test_multiprocessing

    test._test_multiprocessing.install_tests_in_module_dict(globals(), "fork")
    names = [name.replace("fork.", "__main__.") for name in names]


class Result(unittest.TextTestResult):
    outcomes = {}

    def stopTest(self, test):
        super().stopTest(test)
        self.outcomes.setdefault(test.id(), "ok")

    def addError(self, test, error):
        super().addError(test, error)
        self.outcomes[test.id()] = "ERROR"

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.outcomes[test.id()] = "FAILED"

    def addSkip(self, test, why):
        super().addSkip(test, why)
        self.outcomes[test.id()] = "skipped"


def main():
    warnings.simplefilter("ignore")
    ours = os.fdopen(os.dup(1), "w")  # some tests print
    os.dup2(2, 1)
    stream = io.StringIO()
    result = unittest.TextTestRunner(stream, resultclass=Result).run(unittest.defaultTestLoader.loadTestsFromNames(names))
    for name, outcome in sorted(result.outcomes.items()):
        print(name, outcome, file=ours)
    print(stream.getvalue()[-20000:], file=sys.stderr)
    ours.close()
    sys.exit(len(result.outcomes) < 10)


if __name__ == "__main__":
    main()
PYTHON
python_tests() {
    local tests=(test.test_thread test.test_threading.ThreadTests test.test_threading.ConditionTests
        test.test_subprocess.ContextManagerTests test.test_subprocess.RunFuncTestCase
        test.test_weakref.ReferencesTestCase test.test_json test.test_bytes test.test_array test.test_mmap
        test.test_memoryview test.test_ctypes fork.WithProcessesTestPool fork.WithProcessesTestQueue)
    if [ "$full" = 1 ]; then
        tests=(test.test_thread test.test_threading test.test_subprocess test.test_fork1 test.test_threadsignals
            test.test_signal test.test_posix test.test_queue test.test_weakref test.test_gc test.test_json test.test_re
            test.test_bytes test.test_unicode test.test_dict test.test_set test.test_list test.test_array test.test_mmap
            test.test_memoryview test.test_ctypes test.test_sqlite3 test.test_asyncio fork.WithProcessesTestPool
            fork.WithProcessesTestQueue fork.WithProcessesTestProcess fork.WithProcessesTestSharedMemory
            fork.WithProcessesTestValue fork.WithManagerTestPool)
    fi
    timeout $limit "${under[@]}" "$python" -W ignore "$work/outcomes.py" "${tests[@]}"
}
program_python() {
    have python "$python" || return 0
    if ! "$python" -c 'import test._test_multiprocessing, test.test_thread' 2>/dev/null; then
        result python skipped "the test package of $python is not installed"
        return
    fi
    serves "$python" -c pass || { result python FAILED "malloc is not served by the library"; return; }
    same python python_tests
}

# ---- NumPy and SciPy -------------------------------------------------------------------------------------------

numpy_tests() { # module, pytest arguments...
    # Names and outcomes; times and warnings differ.
    timeout $limit "${under[@]}" "$venv/bin/python" -m pytest -q -p no:cacheprovider -p no:mpi -rA --no-header -W ignore --tb=short "$@" >log || [ $? = 1 ]
    grep -E '^(PASSED|FAILED|ERROR|SKIPPED|XFAIL) ' log | sed 's/ - .*//' | sort
    grep -q ' passed' log
}
program_numpy() {
    have numpy "$venv/bin/python" || return 0
    if ! "$venv/bin/python" -c 'import numpy, pytest, hypothesis' 2>/dev/null; then
        result numpy skipped "numpy, pytest or hypothesis is not installed"
        return
    fi
    serves "$venv/bin/python" -c 'import numpy' || { result numpy FAILED "malloc is not served by the library"; return; }
    export OPENBLAS_NUM_THREADS=2
    if [ "$full" = 1 ]; then
        same numpy numpy_tests --pyargs numpy._core.tests.test_multiarray numpy._core.tests.test_umath \
            numpy.linalg.tests numpy.fft.tests numpy.random.tests.test_generator_mt19937
        if "$venv/bin/python" -c 'import scipy' 2>/dev/null; then same scipy numpy_tests --pyargs scipy.linalg.tests.test_decomp scipy.sparse.tests.test_base
        else result scipy skipped "scipy is not installed"; fi
    else
        same numpy numpy_tests --pyargs numpy._core.tests.test_multiarray numpy.linalg.tests.test_linalg \
            -k 'TestMethods or TestResize or TestSolve or TestSVD'
    fi
}

# ---- MPI -------------------------------------------------------------------------------------------------------

cat >"$work/ranks.py" <<'PYTHON'
import numpy as np
from mpi4py import MPI

comm = MPI.COMM_WORLD
served = "libnumalloc_preload" in open("/proc/self/maps").read()
total = 0.0
for n in (1, 100, 5000, 300_000):  # eager, rendezvous, shared memory
    a = np.arange(n, dtype=float) + comm.rank
    b = np.empty_like(a)
    comm.Allreduce(a, b)
    comm.Sendrecv(a, (comm.rank + 1) % comm.size, recvbuf=b, source=(comm.rank - 1) % comm.size)
    total += b.sum()
    objects = comm.allgather([{"rank": comm.rank, "n": n}] * 50)
    total += sum(len(o) for o in objects)
window = MPI.Win.Allocate(8 * 1000, comm=comm)
window.Free()
results = comm.gather((comm.rank, total))
every = comm.allreduce(served, MPI.LAND)
if comm.rank == 0:
    print(results)
    open("served", "w").write(str(every))
PYTHON
mpi_ranks() { # bin
    PATH="$1:$PATH" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
        timeout $limit "${under[@]}" mpirun -n 2 "$1/python" "$work/ranks.py"
    if [ ${#under[@]} -gt 0 ]; then [ "$(cat served)" = True ]; else [ "$(cat served)" = False ]; fi
}
program_mpi() {
    local environment name environments=("$venv")
    if [ "$full" = 1 ] && [ "$venv" != "$root/.venv-mpich" ]; then environments+=("$root/.venv-mpich"); fi
    for environment in "${environments[@]}"; do
        name=$(basename "$environment")
        name=mpi${name#.venv}
        if PATH="$environment/bin:$PATH" command -v mpirun >/dev/null && "$environment/bin/python" -c 'import mpi4py, numpy' 2>/dev/null
        then same "$name" mpi_ranks "$environment/bin"
        else result "$name" skipped "MPI with mpi4py is not installed in $(basename "$environment")"; fi
    done
}

# ------------------------------------------------------------------------------------------------------------------

programs=("$@")
if [ ${#programs[@]} -eq 0 ]; then programs=(shell gcc sqlite3 git redis python numpy mpi); fi
for program in "${programs[@]}"; do
    started=$SECONDS
    "program_$program"
done
echo "$passed passed, $failed failed, $skipped skipped in $SECONDS s"
if [ "${CI:-}" = true ] && [ "$skipped" -gt 0 ]; then exit 1; fi
[ "$failed" -eq 0 ]
