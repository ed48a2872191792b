"""Who a caller is according to others: a service that knows organizations' keys, and signed tokens of nodes.

Knows neither Redis nor HTTP requests; :mod:`kelpie.http.credentials` makes principals of what this finds out.
"""

from kelpie.identity.identities import Identities
from kelpie.identity.node_tokens import NodeIdentity, NodeTokens
from kelpie.identity.organization_keys import Organization, OrganizationKeys

__all__ = ["Identities", "NodeIdentity", "NodeTokens", "Organization", "OrganizationKeys"]
