"""What `raycomp train` trains, one file a kind of network: dense, elastic, policy. The loop is `raycomp.training_loop`."""
