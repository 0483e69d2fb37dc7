"""The commands on a run or a dataset; one module per command."""
