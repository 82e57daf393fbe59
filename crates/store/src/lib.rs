//! Device registry, keys, sessions and limits: the only place that speaks Redis.
