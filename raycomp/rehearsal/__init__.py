# SPDX-License-Identifier: Apache-2.0
"""A rehearsal: every job of a search space at its smallest size, and the hours of the whole path."""
