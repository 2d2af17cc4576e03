# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
#
# What the job scripts share: the environment of a job, its geometry, taken from SLURM_*, and its launch. They source it
# from the folder they are submitted in, or from HPCALLOC_HOME: a checkout, or the folder that `hpcalloc config --share`
# names. From the environment (sbatch passes it on; with --export=NONE nothing is needed, --export=NAME=VALUE gives one):
#
#   SETUP='module load openmpi'   what comes first, for bash
#   VENV                   virtual environment, or another folder with bin/hpcalloc; by default .venv of HPCALLOC_HOME where
#                          there is no hpcalloc on the PATH. A site's MPI comes from its module; MPI wheels are for trying.
#   LAUNCHER=srun|mpirun   how ranks are started. srun (the default) meets the MPI library by SLURM_MPI_TYPE: pmix
#                          for Open MPI, pmi2 for MPICH; `srun --mpi=list` says what a cluster has.
#   RANKS_PER_NODE THREADS instead of what a script chooses; sbatch's --ntasks-per-node and --cpus-per-task win
#   CPU_BIND MEM_BIND      srun's --cpu-bind and --mem-bind (cores, local); CPU_BIND=none holds for mpirun as well
#   CHECK=no               leaves out what every job does first, `hpcalloc doctor` and `report` on all ranks
#   RESULTS                where JSON files and plots go (results-JOBID)

export HPCALLOC_HOME=${HPCALLOC_HOME:-$SLURM_SUBMIT_DIR}

if [ -n "${SETUP:-}" ]; then
    set +u # modules use variables that are not set
    eval "$SETUP"
    set -u
fi
if [ -z "${VENV:-}" ] && ! command -v hpcalloc >/dev/null; then VENV=$HPCALLOC_HOME/.venv; fi
[ -z "${VENV:-}" ] || export PATH="$VENV/bin:$PATH"
export SLURM_EXPORT_ENV=ALL # the ranks have this environment, also under sbatch --export=NONE

# Of this node, the others are taken to be alike. SLURM_CPUS_ON_NODE counts hardware threads.
numa_nodes=$(lscpu --parse=node | grep -v '^#' | sort -u | wc -l) # those with CPUs
threads_per_core=$(lscpu | sed -n 's/^Thread(s) per core: *//p')
cores=$((SLURM_CPUS_ON_NODE / threads_per_core))

container=() # the words that run a command in a container, if any do

refuse() { # refuse VALUE LIMIT REMEDY
    echo "$SLURM_JOB_NAME: $1; limit: $2; remedy: $3" >&2
    exit 2
}

[ -n "${IMAGE:-}${CONTAINER:-}" ] || command -v hpcalloc >/dev/null ||
    refuse "no hpcalloc" "PATH=$PATH" "VENV=DIR, or SETUP='module load ...'"

# geometry RANKS: sets ranks_per_node (RANKS, if nobody says otherwise), width (a rank's cores, an equal share of the
# node's even if it has fewer threads, so that ranks don't crowd on the first NUMA node), threads and ranks.
geometry() {
    ranks_per_node=${SLURM_NTASKS_PER_NODE:-${RANKS_PER_NODE:-$1}}
    if ((ranks_per_node < 1 || ranks_per_node > cores)); then
        refuse "$ranks_per_node ranks a node" "1 to the $cores cores of a node" "another RANKS_PER_NODE"
    fi
    width=$((cores / ranks_per_node))
    threads=${SLURM_CPUS_PER_TASK:+$((SLURM_CPUS_PER_TASK / threads_per_core))}
    threads=${threads:-${THREADS:-$width}}
    if ((threads < 1 || threads > width)); then
        refuse "$threads threads a rank" "1 to $width, the cores of each of $ranks_per_node ranks" "other THREADS"
    fi
    nodes=$SLURM_JOB_NUM_NODES
    ranks=$((ranks_per_node * nodes))
    # Since Slurm 22.05 srun doesn't take over sbatch's --cpus-per-task: it is said to every srun.
    export SRUN_CPUS_PER_TASK=$((width * threads_per_core))
    # No OMP_PROC_BIND: where Python loads an OpenMP runtime, it would leave one place to all that comes after it.
    export OMP_NUM_THREADS=$threads
    echo "$SLURM_JOB_NAME: $nodes nodes with $numa_nodes NUMA nodes and $cores cores each;" \
        "$ranks_per_node ranks a node, $threads threads a rank"
}

# launch PROGRAM...: ranks fill a node's cores in order, so that neighbours are neighbours in memory as well.
launch() {
    local bind=${CPU_BIND:-cores}
    case ${LAUNCHER:-srun} in
        srun)
            srun --nodes="$nodes" --ntasks="$ranks" --ntasks-per-node="$ranks_per_node" \
                --cpus-per-task="$SRUN_CPUS_PER_TASK" --distribution=block:block \
                --cpu-bind="$bind" --mem-bind="${MEM_BIND:-local}" "$@"
            ;;
        mpirun)
            local options=(-n "$ranks")
            case $(mpirun --version):$bind in
                *'Open MPI'*:none) options+=(--map-by "ppr:$ranks_per_node:node" --bind-to none) ;;
                *'Open MPI'*) options+=(--map-by "ppr:$ranks_per_node:node:PE=$width" --bind-to core) ;;
                *:none) options+=(-ppn "$ranks_per_node" -bind-to none) ;; # MPICH
                *) options+=(-ppn "$ranks_per_node" -bind-to "core:$width") ;;
            esac
            mpirun "${options[@]}" "$@"
            ;;
        *)
            refuse "LAUNCHER=$LAUNCHER" "srun or mpirun" "set one of them"
            ;;
    esac
}

# check: what the doctor finds on all ranks, then every rank's CPUs, nodes and pages, before hours are spent on it. What
# they find, or that they fail, does not end the job: a place in the queue was waited for.
check() {
    [ "${CHECK:-yes}" = yes ] || return 0
    diagnose doctor
    diagnose report --size "${CHECK_MIB:-64}"
}

diagnose() {
    launch timeout 300 "${container[@]}" hpcalloc "$@" ||
        echo "$SLURM_JOB_NAME: hpcalloc $1: exit code $?; the job goes on"
}

# collect NAME: sets results, the directory of JSON files and plots.
collect() {
    results=${RESULTS:-$SLURM_SUBMIT_DIR/results-$1}
    mkdir -p "$results"
}
