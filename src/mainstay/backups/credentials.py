"""Which options of a remote object storage are credentials, and that there are some.

Without any, object_store asks the metadata service of a cloud (a link-local address, or a name that stands for one) who
we are. That is nobody's wish here: on other hosts somebody else may answer there, and on a cloud's the service would
act with rights that nobody gave it. So a storage is only used with credentials that were given to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from mainstay.model.errors import Permanent

_TRUE = frozenset({"true", "1", "on", "yes", "y", "t"})

_PREFIXES = {"s3": "aws_", "gs": "google_", "az": "azure_"}
_SUFFICIENT: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "s3": (("access_key_id", "secret_access_key"),),
    "gs": (
        ("service_account",), ("service_account_path",), ("service_account_key",), ("application_credentials",),
    ),
    "az": (
        ("storage_account_key",), ("account_key",), ("access_key",), ("storage_access_key",), ("storage_master_key",),
        ("master_key",), ("storage_sas_key",), ("storage_sas_token",), ("sas_key",), ("sas_token",),
        ("storage_token",), ("bearer_token",), ("token",),
        ("client_id", "client_secret", "tenant_id"),
        ("storage_client_id", "storage_client_secret", "storage_tenant_id"),
    ),
}  # fmt: skip
"""Names as object_store knows them, without the provider's prefix, which it takes too: any of these groups will do."""

_ASKS_THE_HOST = frozenset(
    {"metadata_endpoint", "imdsv1_fallback", "container_credentials_relative_uri", "container_credentials_full_uri",
     "container_authorization_token_file", "msi_endpoint", "identity_endpoint", "use_azure_cli"}
)  # fmt: skip
_WANTED = {
    "s3": "aws_access_key_id and aws_secret_access_key",
    "gs": "google_service_account (a path) or google_service_account_key",
    "az": "azure_storage_account_key, azure_storage_sas_key, or azure_client_id, azure_client_secret and"
    " azure_tenant_id",
}


def require_credentials(scheme: str, options: Mapping[str, str]) -> None:
    """Raises `Permanent`, in words and without any value, unless the options of an s3, gs or az storage hold some."""
    given = {_plain(scheme, name): value for name, value in options.items() if value.strip()}
    asking = sorted(name for name in given if name in _ASKS_THE_HOST)
    if asking:
        raise Permanent(
            f"the option {asking[0]} of the object storage would ask this host who it is, which Mainstay does not do",
            hint=f"Give {_WANTED[scheme]} in the file of object_storage_options instead.",
        )
    if given.get("skip_signature", "").lower() in _TRUE:
        return
    if not any(all(name in given for name in group) for group in _SUFFICIENT[scheme]):
        partly = next((set(group) - set(given) for group in _SUFFICIENT[scheme] if set(group) & set(given)), set())
        missing = f": {', '.join(_PREFIXES[scheme] + one for one in sorted(partly))} missing" if partly else ""
        raise Permanent(
            f"the object storage ({scheme}://) has no credentials{missing}",
            hint=f"Write {_WANTED[scheme]} into a file of mode 0600 and name it in object_storage_options. A storage"
            f' that needs none wants {_PREFIXES[scheme]}skip_signature = "true".',
        )


def _plain(scheme: str, name: str) -> str:
    return name.lower().removeprefix(_PREFIXES[scheme])
