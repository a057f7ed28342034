//! The programs as an administrator meets them: real processes, sockets and signals.

mod commands;
#[allow(dead_code)] // Other tests use the rest of it.
mod daemon;
mod drain;
mod life;
mod log;
#[path = "../peer/mod.rs"]
mod peer;
mod privileges;
mod status;
