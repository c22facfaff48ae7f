# SPDX-License-Identifier: Apache-2.0
"""Run a sweep on a local cluster that grows and shrinks: Ray's autoscaler, with nodes of one CPU each.

    python jobs/autoscale_demo.py --nodes 2 --trials 24

Nodes start with the first trials and stop when idle; the picture shows both over time.
"""

from raycomp.cli import guarded
from raycomp.commands.autoscale_demo import autoscale_demo_command as main

if __name__ == "__main__":
    guarded(main)
