"""Data, runs and statistics behind the experiments."""
