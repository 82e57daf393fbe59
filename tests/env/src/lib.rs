//! Finds, starts, stops and hurts the real servers that tests need.
