"""The search: what to measure next, trials, and the sweep that runs them."""

import raycomp.cluster  # noqa: F401  sets up Ray before a module here imports it
