//! Group commit to Kafka and its topics: the only place that speaks Kafka.
