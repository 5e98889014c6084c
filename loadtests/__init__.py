"""Load tests: scenarios that speak HTTP to a running server and report medians, p99 and n.

They know the server only through its API, so whatever they measure is what a client sees.
"""
