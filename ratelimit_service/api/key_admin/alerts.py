"""ListAlerts and TestAlert, and alerts as messages of `ratelimit.v1`."""

from google.protobuf.struct_pb2 import Struct

from ratelimit_service._gen.ratelimit.v1 import alerts_pb2 as pb
from ratelimit_service.alerts.alert import Alert, AlertState, Delivery, DeliveryState
from ratelimit_service.alerts.service import AlertService
from ratelimit_service.api.authentication import require
from ratelimit_service.api.key_admin.fields import time_to_proto
from ratelimit_service.api.key_admin.pages import read_page
from ratelimit_service.management.paging import Paging
from ratelimit_service.management.tokens import Caller, Role

_STATES = {AlertState.FIRING: pb.Alert.FIRING, AlertState.RESOLVED: pb.Alert.RESOLVED}
_DELIVERY_STATES = {
    DeliveryState.PENDING: pb.AlertDelivery.PENDING,
    DeliveryState.DELIVERED: pb.AlertDelivery.DELIVERED,
    DeliveryState.GIVEN_UP: pb.AlertDelivery.GIVEN_UP,
}


class ListAlerts:
    """Lists alerts."""

    def __init__(self, alerts: AlertService) -> None:
        self._alerts = alerts

    async def __call__(self, request: pb.ListAlertsRequest, caller: Caller) -> pb.ListAlertsResponse:
        """List a page of them, if the caller's role allows it. Raises ServiceError."""
        require(caller, Role.VIEWER)
        paging = Paging(request.page_size, request.page_token)
        alerts, token = await read_page(paging, self._alerts.list, _alert_to_proto)
        return pb.ListAlertsResponse(
            alerts=alerts,
            next_page_token=token,
            tests=[_delivery_to_proto(delivery) for delivery in await self._alerts.tests()],
            webhook=self._alerts.webhook,
        )


class TestAlert:
    """Sends a test message."""

    def __init__(self, alerts: AlertService) -> None:
        self._alerts = alerts

    async def __call__(self, _request: pb.TestAlertRequest, caller: Caller) -> pb.TestAlertResponse:
        """Send it, if the caller's role allows it. Raises ServiceError."""
        require(caller, Role.ADMIN)
        delivery = await self._alerts.test(caller.name)
        return pb.TestAlertResponse(delivery_id=delivery.delivery_id)


def _alert_to_proto(alert: Alert) -> pb.Alert:
    detail = Struct()
    detail.update(alert.detail)
    return pb.Alert(
        alert_id=alert.alert_id,
        rule=alert.rule.value,
        target=alert.target,
        limit=alert.limit,
        level=alert.level,
        state=_STATES[alert.state],
        summary=alert.summary,
        detail=detail,
        start_time=time_to_proto(alert.started_us),
        update_time=time_to_proto(alert.updated_us),
        end_time=time_to_proto(alert.ended_us),
        deliveries=[_delivery_to_proto(delivery) for delivery in alert.deliveries],
    )


def _delivery_to_proto(delivery: Delivery) -> pb.AlertDelivery:
    return pb.AlertDelivery(
        delivery_id=delivery.delivery_id,
        event=delivery.event.value,
        state=_DELIVERY_STATES[delivery.state],
        attempts=delivery.attempts,
        status=delivery.status,
        error=delivery.error,
        create_time=time_to_proto(delivery.created_us),
        last_time=time_to_proto(delivery.last_us),
        next_time=time_to_proto(delivery.next_us),
    )
