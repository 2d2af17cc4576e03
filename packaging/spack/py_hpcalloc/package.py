# SPDX-License-Identifier: BSD-3-Clause
# ruff: noqa: D100, F403, F405
# The package for Spack, from this checkout. Copy this folder to packages/ of a repository of yours, then
#   spack develop --path CHECKOUT py-hpcalloc@0.2.0 && spack install --add py-hpcalloc
from spack.package import *
from spack_repo.builtin.build_systems.python import PythonPackage


class PyHpcalloc(PythonPackage):
    """NUMA-aware memory for MPI and OpenMP programs: pinned ranks, node-local NumPy arrays, page-level proof."""

    license("BSD-3-Clause")

    version("0.2.0")

    variant("mpi", default=True, description="Contexts of several ranks")

    conflicts("platform=darwin")
    conflicts("platform=windows")

    depends_on("c", type="build")
    depends_on("cmake@3.18:", type="build")
    depends_on("ninja", type="build")
    depends_on("py-scikit-build-core@0.10:", type="build")
    depends_on("python@3.10:", type=("build", "link", "run"))
    depends_on("py-numpy@1.26:", type=("build", "link", "run"))
    depends_on("py-cffi@1.16:", type=("build", "run"))
    depends_on("py-click@8.1:", type="run")
    depends_on("py-rich@13:", type="run")
    depends_on("py-threadpoolctl@3.1:", type="run")
    depends_on("py-mpi4py@4.0:", when="+mpi", type="run")
