"""What the tests of rules use beside the common fixtures."""

from fixtures.redis_cluster import redis_cluster

__all__ = ["redis_cluster"]
