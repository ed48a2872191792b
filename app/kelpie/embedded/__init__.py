"""Kelpie on one machine: the servers it needs, the processes it is made of, and what keeps them together."""
