"""Prints each message once: python reader.py BROKERS TOPIC GROUP ISOLATION (pip install confluent-kafka)"""

import sys
from collections import OrderedDict

from confluent_kafka import Consumer, KafkaError, KafkaException

REMEMBERED = 100_000
"""Names that are remembered; older ones are forgotten."""


def main(brokers, topic, group, isolation):
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": group,
        "isolation.level": isolation,  # "read_committed", the default of librdkafka
        "auto.offset.reset": "earliest",
        "enable.auto.offset.store": False,  # what was worked on is committed, not what was fetched
        "enable.partition.eof": True,
    })
    seen = OrderedDict()
    ended = set()
    try:
        consumer.subscribe([topic])
        # A service goes on for ever. With read_committed, a partition ends where its oldest open transaction begins.
        while not ended or len(ended) < len(consumer.assignment()):
            record = consumer.poll(0.5)
            if record is None:
                continue
            if record.error():
                if record.error().code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(record.error())
                ended.add(record.partition())
                continue
            # Session, rekey epoch and sequence number: the same in every copy of a message.
            name = dict(record.headers())["ce_id"].decode()
            if name not in seen:
                seen[name] = True
                if len(seen) > REMEMBERED:
                    seen.popitem(last=False)
                # Here is the work. Keep the name with its result: this table does not outlive the process.
                print(record.key().decode(), name, len(record.value()))
            consumer.store_offsets(record)
    finally:
        consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
