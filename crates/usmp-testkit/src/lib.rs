//! Virtual-clock links, vectors, device profiles and seeded randomness for USMP tests.
