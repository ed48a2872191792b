"""A lean S3 client for the calls that every file costs: boto3 takes about 2 ms of processor time per call.

``lean`` is that client, with the names, arguments, answers and errors of boto3's; ``signing``, ``connection``
and ``wire`` are its parts. ``endpoint`` says where it can be used; everything else is boto3's. ``body`` is
what both send.
"""

from kelpie_worker.sync.transport.body import Body, Slice, block_buffer, crc32, crc32_of
from kelpie_worker.sync.transport.endpoint import (
    custom_endpoint,
    from_boto3,
    from_environment,
    region_of_environment,
)
from kelpie_worker.sync.transport.lean import LeanClient

__all__ = [
    "Body",
    "LeanClient",
    "Slice",
    "block_buffer",
    "crc32",
    "crc32_of",
    "custom_endpoint",
    "from_boto3",
    "from_environment",
    "region_of_environment",
]
