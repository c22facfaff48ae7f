"""The settings of a search space file, one module a subject; `raycomp.config` puts them together."""
