"""What no engine can hold: intent, reservations, history. Keys and JSON values in transactions."""

from triune.store.base import Delete, Entry, Put, Store
from triune.store.sqlite import SqliteStore

__all__ = ["Delete", "Entry", "Put", "SqliteStore", "Store"]
