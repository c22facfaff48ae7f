"""Ray: connecting, placing work, and tasks. Its settings stand here, as Ray reads some of them when it is imported."""

import os
import sys

if "ray" not in sys.modules:  # else its own default, which also asks for a token, is already in force
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # explicit: a token left behind would decide otherwise
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # no banner before our own line of progress
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # snapshots of all trials, which nothing here reads
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning on machines without a GPU
