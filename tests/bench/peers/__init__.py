"""Kelpie and its peers side by side on one server: each member of a crew speaks one queue's own client."""
