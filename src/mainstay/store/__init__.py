"""The one store that remembers: records, jobs and events, changed together in one transaction."""

from mainstay.store.base import Conflict, Duplicate, Event, Job, Reader, Store, StoreFull, Transaction
from mainstay.store.sqlite import SqliteStore

__all__ = ["Conflict", "Duplicate", "Event", "Job", "Reader", "SqliteStore", "Store", "StoreFull", "Transaction"]
