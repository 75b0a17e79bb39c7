"""AWS's service models, as botocore ships them: the only place that reads them from the installed package.

A model is kept without its documentation, which is two thirds of it.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from typing import Any

from botocore.loaders import JSONFileLoader, Loader
from botocore.model import ServiceModel

from mainstay.protocol.aws.models import SERVICES, ServedService, ServiceModels


def read_model(row: ServedService) -> ServiceModel:
    """The model of a service, whether it is served or not."""
    # Only the installed package is searched: a model in somebody's ~/.aws must not change how we speak. The loader is
    # dropped afterwards because it caches every file that it has read.
    loader = Loader(
        extra_search_paths=[Loader.BUILTIN_DATA_PATH],
        file_loader=_LeanFileLoader(),
        include_default_search_paths=False,
    )
    description = loader.load_service_model(row.name, "service-2", api_version=row.api_version)
    for shape in description["shapes"].values():
        if shape.get("fault"):
            # botocore keeps the "error" trait of a shape but drops "fault", which alone says that it is a 5xx.
            shape["error"] = {**shape.get("error", {}), "fault": True}
    return ServiceModel(description, row.name)


class _LeanFileLoader(JSONFileLoader):
    """Reads a model file into plain dicts without documentation, sharing equal shape names."""

    def load_file(self, file_path: str) -> Any:
        for path, opener in ((file_path + ".json", open), (file_path + ".json.gz", gzip.open)):
            if os.path.isfile(path):
                with opener(path, "rb") as file:
                    return json.loads(file.read(), object_pairs_hook=_lean_object)
        return None


def _lean_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A *member* may be called "documentation" too; its value is an object, so only strings are dropped.
    return {
        key: sys.intern(value) if key == "shape" and isinstance(value, str) else value
        for key, value in pairs
        if not (key == "documentation" and isinstance(value, str))
    }


MODELS = ServiceModels(SERVICES, read_model)
"""The process's models. Empty until a request needs one."""
