# SPDX-License-Identifier: Apache-2.0
"""The steps of `benchmarks/gpu.py`: each module has `run(setting, notes)`, which runs in a process of its own."""
