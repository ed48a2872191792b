"""The HTTP API: one module per resource; parse, call the store, reply."""
