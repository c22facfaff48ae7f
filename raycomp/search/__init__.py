# SPDX-License-Identifier: Apache-2.0
"""The search: proposals, trials, and the sweep that runs them."""

import raycomp.cluster  # noqa: F401  configures Ray before any module here imports it
