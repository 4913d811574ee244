"""Methods: each file one `train(config) -> directory of the finished run`."""
