//! No code: its manifest makes every crate's dependencies have the features that they have in the whole workspace.
#![no_std]
