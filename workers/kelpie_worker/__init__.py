"""The node worker: leases jobs, runs their commands, moves their data and reports their ends."""
