"""Watch a sweep on a cluster that grows and shrinks: Ray's autoscaler on this machine, its nodes one CPU each.

    python jobs/autoscale_demo.py --nodes 2 --trials 24

The sweep starts with no node at all. Nodes come with its trials and go once they are idle; the picture shows both.
"""

from raycomp.cli import guarded
from raycomp.commands.autoscale_demo import autoscale_demo_command as main

if __name__ == "__main__":
    guarded(main)
