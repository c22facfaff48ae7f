# SPDX-License-Identifier: Apache-2.0
"""Complete jobs on a Ray cluster, from validated settings to files; the commands of the same names run them."""
