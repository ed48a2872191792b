"""How a worker's process ends. Supervisors act on these."""

STOPPED = 0
"""In good order: after a signal, or after the provider agreed to replace or recreate this node."""

BAD_SETTINGS = 78
"""A setting is wrong or a part is missing (EX_CONFIG of sysexits.h). Starting again is vain."""

REPLACE_NODE = 86
"""This node should not go on, and no metadata service replaces it: give the worker another machine."""

RECREATE_CONTAINER = 87
"""KELPIE_RECREATE_BETWEEN_JOBS is set, and no metadata service does it: start a fresh container."""
