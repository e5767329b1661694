"""Shortest paths: energy, solver, certificates, starts and neighbours."""
