//! No code: what `atoll-unify` does, for the crates that must stay quick to build alone.
#![no_std]
