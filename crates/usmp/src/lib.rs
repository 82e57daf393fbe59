//! The USMP protocol.
#![no_std]
