"""The few documents that S3 speaks: boto3's answers made of them, and requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from kelpie_worker.sync.errors import DamagedTransfer


def listing(data: bytes) -> dict[str, Any]:
    """The answer of ListObjectsV2."""
    answer: dict[str, Any] = {"Contents": []}
    encoded = False
    contents: list[dict[str, Any]] = answer["Contents"]
    for element in _root(data, "ListBucketResult"):
        name = _name(element)
        if name == "Contents":
            contents.append({_name(child): child.text or "" for child in element})
        elif name in {"IsTruncated", "NextContinuationToken"}:
            answer[name] = element.text or ""
        elif name == "EncodingType":
            encoded = element.text == "url"
        elif name == "CommonPrefixes":
            found = answer.setdefault("CommonPrefixes", [])
            found += [{"Prefix": child.text or ""} for child in element]
    answer["IsTruncated"] = answer.get("IsTruncated") == "true"
    try:
        for each in contents:
            if encoded:
                each["Key"] = unquote_plus(each["Key"])
            each["Size"] = int(each["Size"])
            each["ETag"] = each.get("ETag", "")
            each["LastModified"] = _time(each["LastModified"])
    except (KeyError, ValueError) as error:
        raise DamagedTransfer(f"the listing is damaged: {error}") from None
    for each in answer.get("CommonPrefixes", ()) if encoded else ():
        each["Prefix"] = unquote_plus(each["Prefix"])
    return answer


def fields(data: bytes, root: str) -> dict[str, str]:
    """The texts of a flat document."""
    return {_name(child): child.text or "" for child in _root(data, root)}


def error_of(data: bytes) -> tuple[str, str]:
    """Code and message of an error's document; empty for what is none."""
    try:
        found = fields(data, "Error")
    except DamagedTransfer:
        return "", ""
    return found.get("Code", ""), found.get("Message", "")


def completion(parts: Sequence[Mapping[str, Any]]) -> bytes:
    """The request that completes a multipart upload."""
    lines = [
        "<Part>"
        + "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in part.items())
        + "</Part>"
        for part in parts
    ]
    head = '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return (head + "".join(lines) + "</CompleteMultipartUpload>").encode()


def _root(data: bytes, expected: str) -> ElementTree.Element:
    try:
        if b"<!DOCTYPE" in data:  # no answer has one; without it there are no entities to expand
            raise DamagedTransfer("the answer has a document type")
        root = ElementTree.fromstring(data)  # noqa: S314 -- see above; boto3 reads it with the same parser
    except ElementTree.ParseError as error:
        raise DamagedTransfer(f"the answer is no XML: {error}") from None
    if _name(root) != expected:
        raise DamagedTransfer(f"the answer is a {_name(root)[:100]}, not a {expected}")
    return root


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
