"""The lease protocol, proved: a model, random walks, a simulated fleet, mutants, crashes and power cuts."""
