"""The names of kafka-python that this package uses; the only module that imports it."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # its protocol modules read their schemas with importlib.resources.read_text, deprecated in Python 3.11 and 3.12
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import ConsumerRebalanceListener, KafkaAdminClient, KafkaConsumer, KafkaProducer, codec, errors
    from kafka import TopicPartition as KafkaPartition
    from kafka.admin import (
        AbortTransactionSpec,
        ConfigResource,
        ConfigResourceType,
        MemberToRemove,
        OffsetSpec,
        TransactionState,
    )
    from kafka.coordinator.assignors.range import RangePartitionAssignor
    from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from kafka.net.compat import KafkaNetClient
    from kafka.net.manager import KafkaConnectionManager
    from kafka.net.selector import NetworkSelector
    from kafka.protocol.consumer import HeartbeatRequest, IsolationLevel
    from kafka.structs import OffsetAndMetadata

__all__ = [
    "AbortTransactionSpec",
    "ConfigResource",
    "ConfigResourceType",
    "ConsumerRebalanceListener",
    "HeartbeatRequest",
    "IsolationLevel",
    "KafkaAdminClient",
    "KafkaConnectionManager",
    "KafkaConsumer",
    "KafkaNetClient",
    "KafkaPartition",
    "KafkaProducer",
    "MemberToRemove",
    "NetworkSelector",
    "OffsetAndMetadata",
    "OffsetSpec",
    "RangePartitionAssignor",
    "RoundRobinPartitionAssignor",
    "TransactionState",
    "codec",
    "errors",
]
