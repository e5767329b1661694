"""The generative models of the paper and how they are trained."""
