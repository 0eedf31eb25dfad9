"""Kafka: the one place of the project that imports kafka-python.

`KafkaSource` and `KafkaSink` are the worker's doors, `KafkaRangeSource` reads history without a group, `KafkaWriter`
fills a topic, the functions of `admin` look at topics and make them.
"""

from consumer.kafka_io.admin import (
    Progress,
    add_partitions,
    check_group,
    check_transactions,
    committed_lag,
    create_command,
    create_topics,
    group_progress,
    no_such_journal_partition,
    topic_info,
    topic_rights,
)
from consumer.kafka_io.options import connection_options
from consumer.kafka_io.past import KafkaPast
from consumer.kafka_io.range_source import Bound, KafkaRangeSource, read_last
from consumer.kafka_io.sink import KafkaSink
from consumer.kafka_io.source import KafkaSource
from consumer.kafka_io.writer import KafkaWriter

__all__ = [
    "Bound",
    "KafkaPast",
    "KafkaRangeSource",
    "KafkaSink",
    "KafkaSource",
    "KafkaWriter",
    "Progress",
    "add_partitions",
    "check_group",
    "check_transactions",
    "committed_lag",
    "connection_options",
    "create_command",
    "create_topics",
    "group_progress",
    "no_such_journal_partition",
    "read_last",
    "topic_info",
    "topic_rights",
]
