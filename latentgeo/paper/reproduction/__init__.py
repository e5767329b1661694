"""Running the notebooks, and saying what they found."""
