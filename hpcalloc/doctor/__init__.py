# SPDX-License-Identifier: BSD-3-Clause
"""What is wrong with where and how a job runs: facts are gathered, checks are pure functions of them.

gather (facts.py) -> Host (host.py) -> checks (binding, devices, openmp, system, software) -> merge (finding.py): a job of
ours, in `diagnosis`; `running` judges any process from outside.
"""
