//! The device role.
