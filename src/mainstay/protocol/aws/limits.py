"""Every bound on what a client may send to the AWS front. Each is tested at limit-1, limit and limit+1."""

from __future__ import annotations

BODY_BYTES_MAX = 1024 * 1024
"""A request body, before and after decompression. AWS's own query and JSON front ends accept about as much."""

QUERY_STRING_CHARACTERS_MAX = 64 * 1024
"""The raw query string: presigned calls are a few kilobytes; a session token is the longest part."""

FORM_PARAMETERS_MAX = 5_000
"""`name=value` pairs in one form: more than the largest call (1,000 EC2 ids, or 20 DB parameters) ever needs."""

NESTING_DEPTH_MAX = 24
"""Parts of one dotted form key, or levels of one JSON document that the model describes."""

LIST_ITEMS_MAX = 1_000
"""Items of one list. A form's highest index is bounded by the same number, and gaps between indices are refused."""

STRING_CHARACTERS_MAX = 256 * 1024
"""One string value. The longest that AWS's models allow is an IAM policy document of 131,072 characters."""

INTEGER_DIGITS_MAX = 20
"""Digits of one integer in a form, enough for 64 bits."""

HEADER_CHARACTERS_MAX = 16 * 1024
"""One header that takes part in a signature."""

SIGNED_HEADERS_MAX = 64
"""Names in SignedHeaders."""

CLOCK_SKEW_MAX_S = 5 * 60
"""How far the date of a signature may be from ours, both ways."""

PRESIGNED_EXPIRES_MAX_S = 7 * 24 * 3600
"""The longest life of a presigned request (X-Amz-Expires)."""

JSON_LIST_ITEMS_MAX = 10_000
"""Items of one list in a JSON body: PutLogEvents takes 10,000 events, more than any other call takes of anything."""
