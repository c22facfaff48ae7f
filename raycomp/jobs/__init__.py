"""Whole jobs on a Ray cluster, from checked settings to files: what the commands of the same names run."""
