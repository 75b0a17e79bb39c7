"""Versions of a secret and their staging labels (Secrets Manager user guide, "What's in a Secrets Manager secret?").

Invariants (tests/property/test_secret_versions.py): a label is on at most one version; once there is an AWSCURRENT,
there always is one; when AWSCURRENT moves, AWSPREVIOUS goes to the version it was taken from; no version that has a
label is ever dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from mainstay.model.errors import ApiError
from mainstay.model.secrets_manager import CURRENT, PREVIOUS, SecretVersion

Versions = tuple[SecretVersion, ...]

STAGES_PER_SECRET = 20
VERSIONS_KEPT = 100
VERSIONS_MAX = 500
"""A bound of ours: AWS has none in words, and keeps all versions of the last 24 hours."""
KEPT_S = 24 * 3600.0


def find_version(versions: Versions, version_id: str) -> SecretVersion | None:
    """The version of this id."""
    return next((one for one in versions if one.version_id == version_id), None)


def labelled(versions: Versions, stage: str) -> SecretVersion | None:
    """The version that has the label."""
    return next((one for one in versions if stage in one.stages), None)


def with_version(versions: Versions, version_id: str, now: float, stages: Sequence[str]) -> Versions:
    """A new version with these labels, taken from whichever version has them; old deprecated versions are dropped.

    Raises `ApiError` LimitExceededException.
    """
    if find_version(versions, version_id) is not None:
        raise AssertionError(f"version {version_id} exists")
    kept = pruned(versions, now)
    if len(kept) >= VERSIONS_MAX:
        raise ApiError(
            "LimitExceededException",
            f"A secret cannot have more than {VERSIONS_MAX} versions created within 24 hours. Remove the staging labels"
            " of versions that you do not need, and create new ones less often.",
        )
    return attached((*kept, SecretVersion(version_id=version_id, created_at=now)), version_id, stages)


def attached(versions: Versions, version_id: str, stages: Collection[str]) -> Versions:
    """The labels on this version and on no other; AWSPREVIOUS follows where AWSCURRENT has been."""
    before = labelled(versions, CURRENT)
    moved = _put(versions, version_id, stages)
    if CURRENT in stages and before is not None and before.version_id != version_id:
        moved = _put(moved, before.version_id, (PREVIOUS,))
    if sum(len(one.stages) for one in moved) > STAGES_PER_SECRET:
        raise ApiError(
            "LimitExceededException", f"A secret cannot have more than {STAGES_PER_SECRET} staging labels attached."
        )
    return moved


def without_stage(versions: Versions, stage: str) -> Versions:
    """The label on no version."""
    return tuple(_labels(one, (label for label in one.stages if label != stage)) for one in versions)


def moved_stage(versions: Versions, stage: str, move_to: str | None, remove_from: str | None) -> Versions:
    """UpdateSecretVersionStage. Raises `ApiError` InvalidParameterException or ResourceNotFoundException."""
    if move_to is None and remove_from is None:
        raise _invalid("You must specify MoveToVersionId, RemoveFromVersionId or both.")
    for version_id in (move_to, remove_from):
        if version_id is not None and find_version(versions, version_id) is None:
            raise ApiError(
                "ResourceNotFoundException", f"Secrets Manager can't find the specified secret version: {version_id}"
            )
    holder = labelled(versions, stage)
    if move_to is not None and holder is not None and holder.version_id == move_to:
        return versions
    if holder is not None and remove_from is None:
        raise _invalid(
            f"The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently attached to version"
            f" {holder.version_id}, so you must explicitly reference that version in RemoveFromVersionId."
        )
    if remove_from is not None and (holder is None or holder.version_id != remove_from):
        raise _invalid(f"The staging label {stage} is not attached to version {remove_from} of this secret.")
    if move_to is not None:
        return attached(versions, move_to, (stage,))
    if stage == CURRENT:
        raise _invalid(
            "You can only move staging label AWSCURRENT to a different secret version. It can’t be completely removed."
        )
    return without_stage(versions, stage)


def pruned(versions: Versions, now: float) -> Versions:
    """Without the oldest deprecated versions beyond 100; those of the last 24 hours are kept."""
    surplus = len(versions) - VERSIONS_KEPT + 1
    old = sorted(
        (one for one in versions if not one.stages and one.created_at < now - KEPT_S), key=lambda one: one.created_at
    )
    dropped = {one.version_id for one in old[: max(0, surplus)]}
    return tuple(one for one in versions if one.version_id not in dropped)


def _put(versions: Versions, version_id: str, stages: Collection[str]) -> Versions:
    moved = []
    for one in versions:
        rest = [label for label in one.stages if label not in stages]
        moved.append(_labels(one, (*rest, *stages) if one.version_id == version_id else rest))
    return tuple(moved)


def _labels(version: SecretVersion, stages: Iterable[str]) -> SecretVersion:
    return msgspec.structs.replace(version, stages=tuple(dict.fromkeys(stages)))


def _invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterException", message)
