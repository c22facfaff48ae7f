# SPDX-License-Identifier: Apache-2.0
"""The settings of a search space file, one module per subject; `raycomp.config` combines them."""
