"""What protobuf reads of assignments."""

from google.protobuf.json_format import MessageToDict

from ratelimit_service._gen.envoy.service.rate_limit_quota.v3.rlqs_pb2 import BucketId, RateLimitQuotaResponse
from ratelimit_service.api.envoy_rlqs.encoder import encode_assignments
from ratelimit_service.decision.assignments.subscriptions import Assignment
from ratelimit_service.decision.assignments.terms import MAX_UINT32, Strategy


def test_every_assignment() -> None:
    """In order, with the id as it came, and with a time to live always."""
    bucket = BucketId(bucket={"customer": "acme", "part": "search"}).SerializeToString(deterministic=True)
    assignments = [
        Assignment(bucket, Strategy.TOKEN_BUCKET, 15, 2_000, 10, 100),
        Assignment(bucket, Strategy.TOKEN_BUCKET, 60, MAX_UINT32, 2_678_400, MAX_UINT32),
        Assignment(bucket, Strategy.ALLOW_ALL, 60),
        Assignment(bucket, Strategy.DENY_ALL),
        Assignment(bucket, None),
    ]
    response = RateLimitQuotaResponse.FromString(encode_assignments(assignments))
    assert {action.bucket_id.SerializeToString(deterministic=True) for action in response.bucket_action} == {bucket}
    found = [MessageToDict(action.quota_assignment_action) for action in response.bucket_action[:4]]
    assert found == [
        {
            "assignmentTimeToLive": "15s",
            "rateLimitStrategy": {
                "tokenBucket": {"maxTokens": 100, "tokensPerFill": 2_000, "fillInterval": "10s"},
            },
        },
        {
            "assignmentTimeToLive": "60s",
            "rateLimitStrategy": {
                "tokenBucket": {"maxTokens": MAX_UINT32, "tokensPerFill": MAX_UINT32, "fillInterval": "2678400s"},
            },
        },
        {"assignmentTimeToLive": "60s", "rateLimitStrategy": {"blanketRule": "ALLOW_ALL"}},
        {"assignmentTimeToLive": "15s", "rateLimitStrategy": {"blanketRule": "DENY_ALL"}},
    ]
    assert response.bucket_action[4].WhichOneof("bucket_action") == "abandon_action"
