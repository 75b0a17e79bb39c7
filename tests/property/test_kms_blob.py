"""The ciphertext blob: any garbage gives the one error, and no two contexts are authenticated alike."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainstay.protocol.kms import (
    BLOB_BYTES_MAX,
    NONCE_BYTES,
    OVERHEAD_BYTES,
    TAG_BYTES,
    CiphertextBlob,
    MalformedBlob,
    associated_data,
    decode_blob,
    encode_blob,
    header,
)

ids = st.uuids().map(str)
versions = st.integers(0, 2**32 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
contexts = st.dictionaries(texts, texts, max_size=4)
blobs = st.builds(
    CiphertextBlob,
    key_id=ids,
    material_version=versions,
    nonce=st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES),
    sealed=st.binary(min_size=TAG_BYTES, max_size=200),
)
ARN = "arn:aws:kms:us-east-1:123456789012:key/x"


@given(blobs)
def test_a_blob_comes_back_as_it_was(blob: CiphertextBlob) -> None:
    assert decode_blob(encode_blob(blob)) == blob


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda tail: b"\x01" + tail))
def test_any_bytes_are_a_blob_or_the_one_error(data: bytes) -> None:
    try:
        blob = decode_blob(data)
    except MalformedBlob:
        return
    assert encode_blob(blob) == data


@given(blobs, st.data())
def test_a_blob_cut_short_never_passes_for_another(blob: CiphertextBlob, data: st.DataObject) -> None:
    encoded = encode_blob(blob)
    cut = encoded[: data.draw(st.integers(0, OVERHEAD_BYTES - 1))]
    with pytest.raises(MalformedBlob):
        decode_blob(cut)


@pytest.mark.parametrize(("size", "taken"), [(BLOB_BYTES_MAX, True), (BLOB_BYTES_MAX + 1, False)])
@pytest.mark.parametrize("least", [OVERHEAD_BYTES - 1, OVERHEAD_BYTES])
def test_the_limits_of_length(size: int, taken: bool, least: int) -> None:
    start = header(str(UUID(int=1)), 1)
    if taken:
        decode_blob(start.ljust(size, b"x"))
    else:
        with pytest.raises(MalformedBlob):
            decode_blob(start.ljust(size, b"x"))
    if least == OVERHEAD_BYTES:
        decode_blob(start.ljust(least, b"x"))
    else:
        with pytest.raises(MalformedBlob):
            decode_blob(start.ljust(least, b"x"))


@given(contexts, contexts)
def test_different_contexts_are_authenticated_differently(one: dict[str, str], other: dict[str, str]) -> None:
    key_id = str(UUID(int=1))
    same = associated_data(key_id, 1, ARN, one) == associated_data(key_id, 1, ARN, other)
    assert same is (one == other)


@given(contexts)
def test_the_order_of_a_context_does_not_matter(context: dict[str, str]) -> None:
    key_id = str(UUID(int=1))
    backwards = dict(reversed(context.items()))
    assert associated_data(key_id, 1, ARN, context) == associated_data(key_id, 1, ARN, backwards)


@given(st.tuples(ids, versions, texts), st.tuples(ids, versions, texts), contexts)
def test_key_version_and_arn_are_authenticated(
    one: tuple[str, int, str], other: tuple[str, int, str], context: dict[str, str]
) -> None:
    assert (associated_data(*one, context) == associated_data(*other, context)) is (one == other)


@pytest.mark.parametrize("key_id", ["", "x", "1234", "A" * 36, str(UUID(int=1)).upper().replace("0", "A")])
def test_a_key_id_must_be_one(key_id: str) -> None:
    with pytest.raises(ValueError, match="no key id"):
        header(key_id, 1)


@pytest.mark.parametrize("version", [-1, 2**32])
def test_a_version_must_fit(version: int) -> None:
    with pytest.raises(ValueError, match="no version"):
        header(str(UUID(int=1)), version)


def test_parts_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="wrong length"):
        encode_blob(CiphertextBlob(key_id=str(UUID(int=1)), material_version=1, nonce=b"", sealed=bytes(TAG_BYTES)))
