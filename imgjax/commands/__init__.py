"""What is done with a run or a dataset, a command each."""
