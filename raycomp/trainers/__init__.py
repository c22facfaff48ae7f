# SPDX-License-Identifier: Apache-2.0
"""The networks `raycomp train` makes, one per file. `raycomp.training_loop` holds the loop."""
