"""Rotation: new material that encrypts from now on; the old keeps decrypting. Source: KMS guide, "Rotating keys"."""

from __future__ import annotations

from typing import Any

import msgspec

from mainstay.host.vault import Vault
from mainstay.model.errors import ApiError
from mainstay.model.kms import ON_DEMAND, KeyMaterial, KeyState, KmsKey
from mainstay.services.kms import limits
from mainstay.services.kms.ciphertexts import new_material
from mainstay.services.kms.lookup import require_enabled
from mainstay.services.kms.pages import page
from mainstay.services.kms.table import on_key
from mainstay.services.operations import Call, Request, Result
from mainstay.workflows.key_timers import keep_rotation_timer


@on_key("EnableKeyRotation")
def enable_key_rotation(call: Call, request: Request, key: KmsKey) -> Result:
    """A rotation every so many days, counted from now. Asking for what is there already changes nothing."""
    require_enabled(key)
    days = request.get("RotationPeriodInDays", limits.ROTATION_PERIOD_DEFAULT_DAYS)
    if key.rotation_enabled and key.rotation_period_days == days:
        return None
    now = call.clock.wall()
    key = msgspec.structs.replace(
        key, rotation_enabled=True, rotation_period_days=days, next_rotation_at=now + days * limits.DAY_S
    )
    call.tx.put(key)
    keep_rotation_timer(call.tx, key, now)
    return None


@on_key("DisableKeyRotation")
def disable_key_rotation(call: Call, _request: Request, key: KmsKey) -> Result:
    """No more rotations by themselves."""
    require_enabled(key)
    key = msgspec.structs.replace(key, rotation_enabled=False, rotation_period_days=None, next_rotation_at=None)
    call.tx.put(key)
    keep_rotation_timer(call.tx, key, call.clock.wall())
    return None


@on_key("GetKeyRotationStatus")
def get_key_rotation_status(_call: Call, _request: Request, key: KmsKey) -> Result:
    """Whether and when the key is rotated by itself; false while it is pending deletion, as on AWS."""
    enabled = key.rotation_enabled and key.state is not KeyState.PENDING_DELETION
    shown: dict[str, Any] = {"KeyRotationEnabled": enabled, "KeyId": key.arn}
    if enabled:
        shown |= {"RotationPeriodInDays": key.rotation_period_days, "NextRotationDate": key.next_rotation_at}
    return shown


@on_key("RotateKeyOnDemand")
def rotate_key_on_demand(call: Call, _request: Request, key: KmsKey) -> Result:
    """New material at once; the schedule of automatic rotations stays."""
    require_enabled(key)
    done = sum(one.rotation_type == ON_DEMAND for one in key.materials)
    if done >= limits.ON_DEMAND_ROTATIONS_PER_KEY:
        raise ApiError(
            "LimitExceededException",
            f"A key can be rotated on demand at most {limits.ON_DEMAND_ROTATIONS_PER_KEY} times. Make another key and"
            " move the alias to it.",
        )
    version, now = key.current.version + 1, call.clock.wall()
    material = new_material(call.use(Vault), call.randomness, key.arn, version, now, ON_DEMAND)
    call.tx.put(msgspec.structs.replace(key, materials=(*key.materials, material)))
    return {"KeyId": key.arn}


@on_key("ListKeyRotations")
def list_key_rotations(_call: Call, request: Request, key: KmsKey) -> Result:
    """Completed rotations, oldest first; with ALL_KEY_MATERIAL the first material too."""
    every = request.get("IncludeKeyMaterial") == "ALL_KEY_MATERIAL"
    found = [one for one in key.materials if every or one.rotation_type]
    shown, more = page(request, found, lambda one: f"{one.version:010}", limits.PAGE_ROTATIONS)
    return {"Rotations": [_show(key, one) for one in shown]} | more


def _show(key: KmsKey, material: KeyMaterial) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "KeyId": key.arn,
        "KeyMaterialId": material.material_id,
        "KeyMaterialState": "CURRENT" if material == key.current else "NON_CURRENT",
    }
    if material.rotation_type:
        shown |= {"RotationDate": material.created_at, "RotationType": material.rotation_type}
    return shown
