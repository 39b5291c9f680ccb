"""A thousand keys in a message, through either transport."""

from google.protobuf.timestamp_pb2 import Timestamp

from fixtures.served import Server
from ratelimit_service._gen.ratelimit.v1 import key_admin_service_pb2 as admin_pb2
from ratelimit_service.api.messages import MAX_ADMIN_MESSAGE

LABELS = {f"{number:02}" + "n" * 61: "ä" * 32 for number in range(3)}


def test_a_thousand_keys_fit(server: Server) -> None:
    """1,000 keys, each with the longest subject and description and 3 labels, are created and revoked in a call each.

    Both messages are below what is accepted: by the service, and by gRPC clients that set no bound of their own.
    """
    plan = "p" * 64
    limits = [{"name": "burst", "token_bucket": {"capacity": 1, "refill_tokens": 1, "refill_period": {"seconds": 1}}}]
    admin = server.manage()
    admin.ManagePlan(
        admin_pb2.ManagePlanRequest(create={"plan": {"name": plan, "limits": limits}}), metadata=server.as_admin
    )
    draft = admin_pb2.ManageKeyRequest.CreateKey(
        plan=plan,
        subject="ä" * 64,
        description="ä" * 128,
        expire_time=Timestamp(seconds=253_402_300_799, nanos=999_999_000),
        labels=LABELS,
    )
    request = admin_pb2.ManageKeyRequest(bulk_create={"keys": [draft] * 1000})
    assert 65_536 < request.ByteSize() <= MAX_ADMIN_MESSAGE

    response = admin.ManageKey(request, metadata=server.as_admin, timeout=30)
    created = [result.created for result in response.bulk_create.results]
    assert len({one.secret for one in created}) == 1000
    assert created[999].key.labels == LABELS

    revoke = admin_pb2.ManageKeyRequest(bulk_revoke={"key_ids": [one.key.key_id for one in created]})
    revoked = admin.ManageKey(revoke, metadata=server.as_admin, timeout=30).bulk_revoke.results
    assert {result.key.state for result in revoked} == {3}
    listing = admin_pb2.ManageKeyRequest(list={"plan": plan, "page_size": 1000})
    assert len(admin.ManageKey(listing, metadata=server.as_admin).list.keys) == 1000
