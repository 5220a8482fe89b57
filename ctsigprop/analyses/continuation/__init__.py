"""Branches of equilibria and cycles under a parameter, and the bifurcations on them."""
