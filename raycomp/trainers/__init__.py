"""The networks that `raycomp train` makes, one a file. `raycomp.training_loop` is the loop."""
