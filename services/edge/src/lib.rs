//! The edge: terminates USMP sessions and hands verified records to Kafka.
