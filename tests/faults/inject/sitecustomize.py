# SPDX-License-Identifier: Apache-2.0
"""Faults for the processes of a sweep, by recipe: imported by every Python that has this folder on PYTHONPATH.

`RAYCOMP_FAULTS` holds JSON: recipe id -> "memory" (a real allocation that fails), "killed" (what the kernel's
out-of-memory killer does), or "hang"; and "" -> seconds that every trial takes longer. `RAYCOMP_CLOCK` names a file
with the seconds by which the clock of the day is off, in every process, at each look. (libfaketime would do it below
Python, too, but breaks the sleep of Python 3.11.)
"""

import datetime
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time

CLOCK = os.environ.get("RAYCOMP_CLOCK")
FAULTS = json.loads(os.environ.get("RAYCOMP_FAULTS", "{}"))


def _offset():
    with open(CLOCK) as file:  # noqa: PTH123  pathlib would be imported into every Python
        return float(file.read() or 0)


class _Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=_offset())


class _Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "raycomp.search.trial":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            measure = module.measure

            def faulty(model, *arguments, **options):
                time.sleep(FAULTS.get("", 0))
                match FAULTS.get(model.recipe.id):
                    case "memory":
                        module.torch.empty(2**55)
                    case "killed":
                        os.kill(os.getpid(), signal.SIGKILL)
                    case "hang":
                        time.sleep(3600)
                return measure(model, *arguments, **options)

            module.measure = faulty
            if CLOCK:
                module.datetime = _Shifted

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if CLOCK:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _offset()
    time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
if FAULTS or CLOCK:
    sys.meta_path.insert(0, _Patch())
