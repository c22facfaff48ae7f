"""What `raycomp train` trains, one file a kind of network: dense, elastic, policy. `raycomp.training_loop` is the loop."""
