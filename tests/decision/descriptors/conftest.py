"""The fixtures of the tests of descriptor decisions, beside the common ones."""

from fixtures.redis_cluster import redis_cluster

__all__ = ["redis_cluster"]
