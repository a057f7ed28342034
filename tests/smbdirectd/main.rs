//! The programs as an administrator meets them: real processes, sockets and signals.

mod commands;
mod daemon;
mod drain;
mod life;
#[path = "../peer/mod.rs"]
mod peer;
mod status;
