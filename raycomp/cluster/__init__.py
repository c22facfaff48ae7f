# SPDX-License-Identifier: Apache-2.0
"""Connecting to Ray, placing work, and tasks. Environment variables are set here, as Ray reads some on import."""

import os
import sys

if "ray" not in sys.modules:  # otherwise Ray's default, which also uses a token, is already set
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # explicit, so that a leftover token file does not decide
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # no banner above our progress line
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # snapshots of all trials are never read
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning on machines without a GPU
