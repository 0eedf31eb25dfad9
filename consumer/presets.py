"""The common envelopes: for each preset, the path of every event field it can fill.

Paths are written as in `input.map` (see `consumer.mapping`), and any of them can be overridden there. A page view
without a product is no event for these presets; where pages are the items, map `item_id` to the page's path.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN = {
    "user_id": "user_id",
    "item_id": "item_id",
    "event_type": "event_type",
    "event_time": "event_time|timestamp|ts|time",
    "event_id": "event_id",
    "session_id": "session_id",
    "value": "value",
    "outcome": "outcome",
    "features": "features",
}
"""One flat object, named as the event is."""

SEGMENT = {
    "user_id": "userId|anonymousId",
    "item_id": "properties.product_id|properties.item_id|properties.content_id|properties.products.0.product_id",
    "event_type": "event|type",
    "event_time": "timestamp|originalTimestamp|sentAt|receivedAt",
    "event_id": "messageId",
    "session_id": "context.sessionId",
    "value": "properties.revenue|properties.value",
}
"""Segment's common fields and its track and e-commerce specifications; RudderStack writes the same."""

GA4 = {
    "user_id": "user_pseudo_id|user_id",
    "item_id": "items.0.item_id|event_params.item_id|event_params.content_id",
    "event_type": "event_name",
    "event_time": "event_timestamp",
    "session_id": "event_params.ga_session_id",
    "value": "event_params.value|event_value_in_usd",
}
"""Rows of Google Analytics 4's BigQuery export. Its times are in microseconds, its 64-bit integers may be text."""

_SNOWPLOW_ACTION = "unstruct_event_com_snowplowanalytics_snowplow_ecommerce_snowplow_ecommerce_action_1"
_SNOWPLOW_PRODUCT = "contexts_com_snowplowanalytics_snowplow_ecommerce_product_1"

SNOWPLOW = {
    "user_id": "user_id|domain_userid|network_userid",
    "item_id": f"{_SNOWPLOW_PRODUCT}.0.id|ti_sku|se_label",
    "event_type": f"{_SNOWPLOW_ACTION}.type|event_name|event",
    "event_time": "derived_tstamp|collector_tstamp",
    "event_id": "event_id",
    "session_id": "domain_sessionid",
    "value": "se_value|tr_total",
}
"""Snowplow's enriched events as its analytics SDKs write them in JSON. Its times are UTC."""

CLOUDEVENTS = {
    "user_id": "data.user_id|user_id",
    "item_id": "data.item_id|item_id",
    "event_type": "kafka.headers.ce_type|type",
    "event_time": "kafka.headers.ce_time|time|data.event_time|event_time",
    "event_id": "kafka.headers.ce_id|id",
    "session_id": "data.session_id|session_id",
    "value": "data.value|value",
    "outcome": "data.outcome|outcome",
    "features": "data.features|features",
}
"""CloudEvents 1.0 over Kafka: structured (attributes and `data` in the value) and binary (attributes in the headers)."""

PRESETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"plain": PLAIN, "segment": SEGMENT, "ga4": GA4, "snowplow": SNOWPLOW, "cloudevents": CLOUDEVENTS}
)
"""By the names that `input.preset` takes."""
