"""The client for threads: `from barque.sync import Client`. See `barque.Client` for arguments and errors."""

from barque.client.sync import Client, ClusterClient, ObjectClient, connect

__all__ = ["Client", "ClusterClient", "ObjectClient", "connect"]
